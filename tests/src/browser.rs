//! A real Chromium inside a test's namespace, driven over WebDriver. Knows the protocol, and nothing of any page.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::program::Program;
use crate::wait::patient;
use crate::world::World;

const DRIVER: &str = "127.0.0.1:9515";

/// How long the browser may take for one command.
const LIMIT: Duration = Duration::from_secs(60);

/// A browser without a window; it ends on drop.
#[derive(Debug)]
pub struct Browser<'w> {
    world: &'w World,
    session: String,
    _driver: Program,
}

/// Whether Chromium and its driver are installed. Where they are not, it says so.
///
/// # Panics
/// Where they are not and `CI` is set.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let found = has("chromium") && has("chromedriver");
    assert!(
        found || std::env::var_os("CI").is_none(),
        "chromium or chromedriver is missing: `cargo xtask setup`"
    );
    if !found {
        println!("this machine has no chromium, or no chromedriver: `cargo xtask setup` installs both");
    }
    found
}

impl<'w> Browser<'w> {
    /// Starts it, outside the managed cgroup, with a profile of its own and a window of this size.
    ///
    /// # Panics
    /// When Chromium or its driver is not installed or does not come up.
    pub fn start(world: &'w World, (width, height): (u32, u32)) -> Self {
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", DRIVER.rsplit_once(':').expect("a port").1));
        let driver = world.start_outside(command);
        world.await_listener(DRIVER, &driver);
        let profile = world.directory().join("browser");
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-proxy-server".to_owned(),
            format!("--user-data-dir={}", profile.display()),
            format!("--window-size={width},{height}"),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let answer = exchange(world, "POST", "/session", Some(&wanted)).expect("a session of the browser");
        let session = answer["sessionId"].as_str().expect("a session has an id").to_owned();
        Self { world, session, _driver: driver }
    }

    /// Goes to a page and waits until it is loaded.
    ///
    /// # Panics
    /// When the browser refuses.
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// What this script, the body of a function, returns; a promise is waited for.
    ///
    /// # Panics
    /// When it throws.
    pub fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What this script returns, as text.
    ///
    /// # Panics
    /// When it throws or returns something else.
    pub fn text(&self, script: &str) -> String {
        let value = self.run(script);
        value.as_str().unwrap_or_else(|| panic!("{script} gives {value}")).to_owned()
    }

    /// Presses and releases keys, one after the other, where the focus is. Special keys are characters of WebDriver's, as
    /// `\u{E007}` for Enter.
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
            })
            .collect();
        let keyboard = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.command("POST", "/actions", &keyboard);
    }

    /// What the page wrote to the console since the last call: level and text, warnings and errors only.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        let is_bad = |entry: &&Value| entry["level"] == "SEVERE" || entry["level"] == "WARNING";
        let entries = entries.as_array().into_iter().flatten().filter(is_bad);
        entries.map(|entry| format!("{} {}", entry["level"], entry["message"])).collect()
    }

    /// The address of every request over the network since the last call.
    pub fn requested(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({ "type": "performance" }));
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let event = &message["message"];
            (event["method"] == "Network.requestWillBeSent")
                .then(|| Some(event["params"]["request"]["url"].as_str()?.to_owned()))?
        };
        let is_of_network = |url: &String| !url.starts_with("chrome:") && !url.starts_with("data:");
        entries.as_array().into_iter().flatten().filter_map(url).filter(is_of_network).collect()
    }

    /// Writes what is to be seen, as PNG, into the directory that `SEGUE_SCREENSHOTS` names; nothing where it names none.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn screenshot(&self, name: &str) {
        let Some(directory) = std::env::var_os("SEGUE_SCREENSHOTS") else { return };
        let answer = self.command("GET", "/screenshot", &Value::Null);
        let png = base64(answer.as_str().expect("a picture"));
        std::fs::create_dir_all(&directory).expect("a directory for pictures");
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), png).expect("a picture is written");
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        let body = (!body.is_null()).then_some(body);
        exchange(self.world, method, &path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // The driver ends the browser; what is left of both goes with the cgroup.
        let _gone = exchange(self.world, "DELETE", &format!("/session/{}", self.session), None);
    }
}

/// One command: what it gives, or why it failed.
fn exchange(world: &World, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {DRIVER}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = world.namespace().run(|| {
        let mut stream = TcpStream::connect(DRIVER)?;
        stream.set_read_timeout(Some(patient(LIMIT)))?;
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream)
    });
    let answer = answer.map_err(|error| error.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| answer.clone())?;
    let mut value: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))?;
    match value["value"]["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", value["value"]["message"])),
        None => Ok(value["value"].take()),
    }
}

/// Everything up to the end that `Content-Length` tells: the driver may leave the connection open.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 64 * 1024];
    loop {
        let read = stream.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..read]);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let whole = end.and_then(|end| {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.split("content-length:").nth(1)?.split("\r\n").next()?.trim().parse::<usize>();
            Some(end + length.ok()?)
        });
        if read == 0 || whole.is_some_and(|whole| bytes.len() >= whole) {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// The bytes that base64 stands for.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for six in text.bytes().filter_map(value) {
        held = held << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    bytes
}
