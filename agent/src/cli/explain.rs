//! `segue explain`: what the next connections to a service would do, and why.

use std::fmt::Write;
use std::process::ExitCode;

use super::client::{Client, ConnectArgs};
use super::flows::client_name;
use super::table::{BAD, Cell, DIM, GOOD, HEADING, Output, Table, print, print_json};
use crate::admin::view::{AskerView, Chain, Explanation, LimitView};

/// What to explain.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  segue explain shop/payment      by the service's name\n  \
                        segue explain 10.96.0.10:443    by the address an application asks for\n  \
                        segue explain shop/payment --as /system.slice/nginx.service\n  \
                        \u{20}                               what is kept of one client: failures, affinity, limits")]
pub struct ExplainArgs {
    /// A service, or an address and port that applications ask for
    #[arg(value_name = "SERVICE|ADDR:PORT")]
    target: String,
    /// To whom: the cgroup of a client, as in /proc/PID/cgroup
    #[arg(long = "as", value_name = "CGROUP")]
    asker: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Which agent to ask
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Asks the agent and writes the answer. Exit code 1 where it cannot be asked or knows no such target.
pub async fn run(args: &ExplainArgs) -> ExitCode {
    let client = Client::new(args.connect.socket.clone());
    let asker = args.asker.as_ref().map(|cgroup| format!("&as={}", encoded(cgroup))).unwrap_or_default();
    let path = format!("/v1/explain?target={}{asker}", encoded(&args.target));
    let explanation = match client.get::<Explanation>(&path).await {
        Ok(answer) => answer,
        Err(error) => return error.report(),
    };
    if explanation.chains.is_empty() {
        anstream::eprintln!(
            "{BAD}segue:{BAD:#} `{}` is no service of the agent's: connections there are left alone; \
             `segue services` lists all",
            args.target
        );
        return ExitCode::FAILURE;
    }
    match args.output {
        Output::Json => print_json(&explanation),
        Output::Table => {
            let chains = explanation.chains.iter().map(chain).collect::<Vec<_>>().join("\n");
            print(&(explanation.asker.as_ref().map(heading).unwrap_or_default() + &chains))
        }
    }
}

/// A query value: what is not plainly harmless, as `%` and two digits.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Who asks, and whether its connections are looked at at all.
fn heading(asker: &AskerView) -> String {
    let AskerView { cgroup, workload, managed, left_alone } = asker;
    let apart = match (managed, left_alone) {
        (false, _) => {
            format!("{BAD}; it is outside the managed cgroup: its connections go on untouched{BAD:#}")
        }
        (true, true) => format!("{BAD}; it is left alone: its connections go on untouched{BAD:#}"),
        (true, false) => String::new(),
    };
    let workload = client_name(workload);
    format!("as {HEADING}{workload}{HEADING:#} {DIM}({cgroup}){DIM:#}{apart}\n")
}

fn chain(chain: &Chain) -> String {
    let mut text = String::new();
    for (at, step) in chain.services.iter().enumerate() {
        let role = if at == 0 { chain.family.as_str() } else { "fallback" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{HEADING}{}{HEADING:#} {DIM}({role}, {}, breaker {}){DIM:#}",
            step.service,
            step.algorithm.name(),
            step.breaker_mode.name()
        );
        if !step.limits.is_empty() {
            let limits: Vec<String> = step.limits.iter().map(LimitView::sentence).collect();
            let _ = writeln!(text, "  limits: {}", limits.join(", "));
        }
        if let Some(locality) = &step.locality {
            let _ = writeln!(text, "  {locality}");
        }
        let mut table = Table::new(&["BACKEND", "VERSION", "ZONE", ">WEIGHT", "TAKES", "WHY"]);
        for candidate in &step.candidates {
            let takes = if candidate.takes { Cell::styled("yes", GOOD) } else { Cell::styled("no", BAD) };
            table.row([
                candidate.address.to_string().into(),
                Cell::or_dash(candidate.version.as_deref()),
                Cell::or_dash(candidate.zone.as_deref()),
                u64::from(candidate.weight).into(),
                takes,
                candidate.why.as_str().into(),
            ]);
        }
        for line in table.to_string().lines() {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(rollout) = &step.rollout {
            let _ = writeln!(text, "  canary: {rollout}");
        }
        let _ = writeln!(text, "  → {}", step.result);
    }
    if let Some(errno) = chain.errno {
        let error = std::io::Error::from_raw_os_error(errno.into());
        let _ = writeln!(text, "{BAD}connect() fails: {error}{BAD:#}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Observe;
    use crate::admin::specimen::Specimen;
    use crate::cli::table::plain;

    #[test]
    fn a_chain_is_shown_service_by_service_with_what_the_application_gets() {
        let explanation = Specimen::default().explain("shop/payment", None).expect("a specimen");
        let expected = "\
shop/payment (tcp ipv4, round_robin, breaker enforce)
  limits: backend_connections 12 of 100, service_rate 500/s
  prefers zone eu-1a, where 1 of 2 are healthy: 70 % stay
  BACKEND        VERSION  ZONE   WEIGHT  TAKES  WHY
  10.1.0.7:8443  v2       eu-1a      10  no     its breaker is open, next probe in 8 s
  canary: v2 gets 10.0 % (step 2 of 3), does no worse than v1
  → nothing is usable and there is no further fallback: the connection is refused
connect() fails: No route to host (os error 113)
";
        assert_eq!(plain(&chain(&explanation.chains[0])), expected);
    }

    #[test]
    fn a_client_is_named_with_what_sets_it_apart() {
        let view = Specimen::default().explain("shop/payment", Some("/system.slice/nginx.service"));
        let mut view = view.expect("a specimen").asker.expect("a client");
        assert_eq!(plain(&heading(&view)), "as nginx (/system.slice/nginx.service)\n");
        view.left_alone = true;
        assert!(heading(&view).contains("it is left alone"));
        view.managed = false;
        assert!(heading(&view).contains("it is outside the managed cgroup"));
    }

    #[test]
    fn a_target_survives_its_way_through_a_query() {
        assert_eq!(encoded("shop/payment"), "shop/payment");
        assert_eq!(encoded("[fd00::1]:80"), "%5Bfd00::1%5D:80");
        assert_eq!(encoded("a&b=c%"), "a%26b%3Dc%25");
    }
}
