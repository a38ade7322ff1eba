//! Systems side by side: a row each, and a column for each figure. It does not know what any figure means.

use serde_json::{Value, json};

use super::rounded;

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    /// What all rows have in common.
    pub(crate) title: String,
    /// Names of the figures, with their units.
    pub(crate) columns: &'static [&'static str],
    /// The systems with their figures, one for each column; `None` is a figure that does not exist.
    pub(crate) rows: Vec<(String, Vec<Option<f64>>)>,
}

impl Matrix {
    /// A table without rows.
    pub(crate) fn new(title: impl Into<String>, columns: &'static [&'static str]) -> Self {
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// Lines for people.
    pub(crate) fn table(&self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut lines = vec![self.title.clone()];
        let heading: Vec<String> = self.columns.iter().map(|name| format!("{name:>12}")).collect();
        lines.push(format!("  {:<width$}  {}", "", heading.join("  ")));
        for (name, figures) in &self.rows {
            let cells: Vec<String> = figures
                .iter()
                .zip(self.columns)
                .map(|(figure, column)| {
                    let text = figure.map_or("–".into(), figure_text);
                    format!("{text:>0$}", column.chars().count().max(12))
                })
                .collect();
            lines.push(format!("  {name:<width$}  {}", cells.join("  ")));
        }
        lines.join("\n")
    }

    /// The same for programs.
    pub(crate) fn as_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, figures)| {
                let mut row = json!({ "system": name });
                for (column, figure) in self.columns.iter().zip(figures) {
                    row[*column] = json!(figure);
                }
                row
            })
            .collect();
        json!({ "title": self.title, "rows": rows })
    }
}

/// Counts as they are, others with the digits that mean something.
fn figure_text(figure: f64) -> String {
    if figure.fract() == 0.0 { format!("{figure:.0}") } else { rounded(figure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_its_json_have_the_same_figures() {
        let mut matrix = Matrix::new("refusing", &["errors", "worst, ms"]);
        matrix.rows.push(("Segue".into(), vec![Some(5.0), None]));
        let table = matrix.table();
        assert!(table.starts_with("refusing\n") && table.contains("worst, ms"), "{table}");
        assert!(table.lines().last().unwrap().ends_with("  –") && table.contains("  5  "), "{table}");
        assert_eq!(
            matrix.as_json()["rows"][0],
            json!({ "system": "Segue", "errors": 5.0, "worst, ms": null })
        );
    }
}
