//! Holds what is carried from shape to shape against paths that say the same in another way. Knows nothing of maps.

use agent_ebpf::abi::Backend;
use proptest::prelude::*;

use super::*;

fn word(name: &str, bytes: usize) -> Shape {
    Shape::Word { name: name.to_owned(), bytes }
}

fn field(name: &str, at: usize, shape: Shape) -> Field {
    Field { name: name.to_owned(), at, shape }
}

fn record(bytes: usize, fields: Vec<Field>) -> Shape {
    Shape::Record { bytes, fields }
}

fn carried(from: &Shape, old: &[u8], to: &Shape) -> Vec<u8> {
    let mut new = vec![0; to.bytes()];
    carry(from, old, to, &mut new);
    new
}

#[test]
fn fields_go_to_where_their_names_are_now() {
    let before = record(4, vec![field("a", 0, word("u8", 1)), field("b", 2, word("u16", 2))]);
    let after = record(
        6,
        vec![field("b", 0, word("u16", 2)), field("new", 2, word("u8", 1)), field("a", 4, word("u8", 1))],
    );
    assert_eq!(carried(&before, &[1, 0xff, 2, 3], &after), [2, 3, 0, 0, 1, 0]);
    assert_eq!(carried(&after, &[2, 3, 9, 0, 1, 0], &before), [1, 0, 2, 3]);
}

#[test]
fn a_word_of_another_kind_or_size_is_left_out() {
    let before = record(9, vec![field("a", 0, word("CellWord", 8)), field("b", 8, word("u8", 1))]);
    let after = record(9, vec![field("a", 0, word("OtherWord", 8)), field("b", 8, word("u8", 1))]);
    assert_eq!(carried(&before, &[7; 9], &after), [0, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(carried(&word("u32", 4), &[7; 4], &word("u64", 8)), [0; 8]);
}

#[test]
fn a_list_keeps_its_beginning() {
    let list = |count| Shape::List { of: Box::new(word("u16", 2)), count };
    assert_eq!(carried(&list(2), &[1, 2, 3, 4], &list(3)), [1, 2, 3, 4, 0, 0]);
    assert_eq!(carried(&list(3), &[1, 2, 3, 4, 5, 6], &list(1)), [1, 2]);
    assert_eq!(carried(&list(0), &[], &list(1)), [0, 0]);
}

#[test]
fn keys_are_taken_for_the_same_only_with_the_same_parts() {
    let key =
        |name, at| record(16, vec![field("client", 0, word("u64", 8)), field(name, at, word("u32", 4))]);
    assert!(key("service", 8).has_the_parts_of(&key("service", 12)));
    assert!(!key("service", 8).has_the_parts_of(&key("version", 8)));
    let fewer = record(8, vec![field("client", 0, word("u64", 8)), field("_pad", 8, word("u32", 4))]);
    assert!(!key("service", 8).has_the_parts_of(&fewer));
    assert!(!fewer.has_the_parts_of(&key("service", 8)));
    let padded = record(16, vec![field("client", 8, word("u64", 8))]);
    assert!(padded.has_the_parts_of(&fewer));
}

#[test]
fn the_layout_of_a_structure_is_the_one_it_has() {
    let Shape::Record { bytes, fields } = Backend::shape() else { panic!("no record") };
    assert_eq!(bytes, size_of::<Backend>());
    let status = fields.iter().find(|field| field.name == "status").unwrap();
    assert_eq!(status.at, std::mem::offset_of!(Backend, status));
    assert_eq!(status.shape, word("u16", 2));
    // Explicit padding is the rule of the layouts: the fields lie one after the other and fill it.
    let mut end = 0;
    for field in &fields {
        assert_eq!(field.at, end, "{}", field.name);
        end += field.shape.bytes();
    }
    assert_eq!(end, bytes);
}

/// Shapes as a build may have, and as somebody may claim.
fn shapes() -> impl Strategy<Value = Shape> {
    let names = prop::sample::select(vec!["a", "b", "c", "_pad"]);
    let size = prop_oneof![8 => 0_usize..9, 1 => Just(usize::MAX)];
    let leaf = (names.clone(), size.clone()).prop_map(|(name, bytes)| word(name, bytes));
    leaf.prop_recursive(3, 24, 4, move |inner| {
        let part = (names.clone(), size.clone(), inner.clone());
        let parts = prop::collection::vec(part.prop_map(|(name, at, shape)| field(name, at, shape)), 0..5);
        prop_oneof![
            (inner, 0_usize..5).prop_map(|(of, count)| Shape::List { of: Box::new(of), count }),
            (size.clone(), parts).prop_map(|(bytes, fields)| record(bytes, fields)),
        ]
    })
}

/// Every named word with the path that leads to it, where it fits: the same thing said in another way.
fn leaves(shape: &Shape, path: &str, base: usize, length: usize) -> Vec<(String, usize, usize)> {
    match shape {
        Shape::Word { name, bytes } => match base.checked_add(*bytes) {
            Some(end) if end <= length => vec![(format!("{path}:{name}:{bytes}"), base, *bytes)],
            _ => Vec::new(),
        },
        Shape::List { of, count } => {
            let step = of.bytes();
            let fits = |index: &usize| {
                let end = step.checked_mul(index + 1).and_then(|size| size.checked_add(base));
                step > 0 && end.is_some_and(|end| end <= length)
            };
            (0..*count)
                .take_while(fits)
                .flat_map(|index| {
                    let begin = base + index * step;
                    leaves(of, &format!("{path}[{index}]"), begin, begin + step)
                })
                .collect()
        }
        Shape::Record { fields, .. } => {
            let mut seen = std::collections::BTreeSet::new();
            fields
                .iter()
                .filter(|field| !field.is_padding() && seen.insert(field.name.clone()))
                .filter_map(|field| Some((field, base.checked_add(field.at)?)))
                .flat_map(|(field, at)| leaves(&field.shape, &format!("{path}.{}", field.name), at, length))
                .collect()
        }
    }
}

/// No two fields of a structure have the same name, or share a byte.
fn is_as_compiled(shape: &Shape) -> bool {
    match shape {
        Shape::Word { .. } => true,
        Shape::List { of, .. } => is_as_compiled(of),
        Shape::Record { fields, .. } => {
            let apart = |one: &Field, other: &Field| {
                let ends = |field: &Field| field.at.saturating_add(field.shape.bytes());
                one.name != other.name && (ends(one) <= other.at || ends(other) <= one.at)
            };
            let mut pairs = fields
                .iter()
                .enumerate()
                .flat_map(|(at, one)| fields[at + 1..].iter().map(move |other| (one, other)));
            pairs.all(|(one, other)| apart(one, other))
                && fields.iter().all(|field| is_as_compiled(&field.shape))
        }
    }
}

proptest! {
    /// What both sides have under one path is carried, also where the shapes are nonsense; nothing panics.
    #[test]
    fn what_both_have_is_carried(from in shapes(), to in shapes(), old in prop::collection::vec(1_u8.., 0..40)) {
        let mut new = vec![0; 40];
        carry(&from, &old, &to, &mut new);
        let (sources, targets) = (leaves(&from, "", 0, old.len()), leaves(&to, "", 0, new.len()));
        // Where two targets overlap the later one wins, which is no business of this test.
        let overlap = |(_, at, bytes): &(String, usize, usize)| {
            targets.iter().filter(|(_, other, many)| at < &(other + many) && other < &(at + bytes)).count() > 1
        };
        for target in targets.iter().filter(|target| !overlap(target)) {
            let Some((_, from, bytes)) = sources.iter().find(|(path, ..)| *path == target.0) else { continue };
            prop_assert_eq!(&new[target.1..target.1 + bytes], &old[*from..from + bytes], "{}", target.0);
        }
    }

    /// A value carried to another shape and back has what both share. Of shapes as compilers make them: a field has its name and
    /// its place to itself.
    #[test]
    fn there_and_back_again(shape in shapes(), old in prop::collection::vec(any::<u8>(), 40)) {
        prop_assume!(is_as_compiled(&shape));
        let mut there = vec![0; 40];
        carry(&shape, &old, &shape, &mut there);
        let mut back = vec![0; 40];
        carry(&shape, &there, &shape, &mut back);
        prop_assert_eq!(there, back);
    }
}
