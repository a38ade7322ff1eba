//! A real Prometheus that scrapes the agent under test, and its query API. Knows no metric.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::program::Program;
use crate::wait::patient;
use crate::world::World;

const LISTEN: &str = "127.0.0.1:9090";

/// A Prometheus inside the world, outside the managed cgroup. It scrapes once a second.
#[derive(Debug)]
pub struct Prometheus<'w> {
    world: &'w World,
    _program: Program,
    started: u64,
}

/// One time series of an answer: its values in order of time.
pub type Values = Vec<f64>;

impl<'w> Prometheus<'w> {
    /// Starts it with the alert rules of this repository and waits until it answers.
    ///
    /// # Panics
    /// When it is not installed or does not come up.
    pub fn start(world: &'w World, target: &str) -> Self {
        let directory = world.directory().join("prometheus");
        fs::create_dir(&directory).expect("a fresh directory");
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/segue-alerts.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules}]\n\
             scrape_configs: [{{ job_name: segue, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        let file = directory.join("prometheus.yml");
        fs::write(&file, config).expect("a configuration file can be written");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        let program = world.start_outside(command);
        world.await_listener(LISTEN, &program);
        Self { world, _program: program, started: now() }
    }

    /// Every series that this expression gave at any second since the start.
    ///
    /// # Errors
    /// What Prometheus has against the expression, or why it does not answer.
    pub fn range(&self, expression: &str) -> Result<Vec<Values>, String> {
        let form = format!("query={}&start={}&end={}&step=1", encoded(expression), self.started, now());
        let answer = self.post("/api/v1/query_range", &form).map_err(|error| error.to_string())?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let series = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
        let value = |pair: &Value| pair[1].as_str().and_then(|text| text.parse::<f64>().ok());
        let values = |one: &Value| one["values"].as_array().map(|all| all.iter().filter_map(value).collect());
        Ok(series.iter().filter_map(values).collect())
    }

    /// The names of the alerts that are pending or firing.
    ///
    /// # Errors
    /// Why it does not answer.
    pub fn alerts(&self) -> Result<Vec<String>, String> {
        let answer = self.get("/api/v1/alerts").map_err(|error| error.to_string())?;
        let alerts = answer["data"]["alerts"].as_array().ok_or_else(|| answer.to_string())?;
        Ok(alerts
            .iter()
            .filter_map(|alert| alert["labels"]["alertname"].as_str())
            .map(str::to_owned)
            .collect())
    }

    fn get(&self, path: &str) -> std::io::Result<Value> {
        self.exchange(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    fn post(&self, path: &str, form: &str) -> std::io::Result<Value> {
        let length = form.len();
        let kind = "application/x-www-form-urlencoded";
        self.exchange(&format!(
            "POST {path} HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{form}"
        ))
    }

    fn exchange(&self, request: &str) -> std::io::Result<Value> {
        let answer = self.world.namespace().run(|| {
            let mut stream = TcpStream::connect(LISTEN)?;
            stream.set_read_timeout(Some(patient(Duration::from_secs(10))))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        })?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(std::io::Error::other)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Text as a form field.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes anything");
        }
    }
    encoded
}
