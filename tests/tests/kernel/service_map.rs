//! The service map in a real Chromium, on a real agent with real connections: what is drawn is what happened, and the page
//! asks nobody but its agent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use segue_tests::agent::SOON;
use segue_tests::browser::{self, Browser};
use segue_tests::service::{Service, config};
use segue_tests::wait::{eventually, let_pass};
use segue_tests::world::World;
use serde_json::Value;

const PAGE: &str = "http://127.0.0.1:9464/";
const WEB: &str = "198.18.0.10:80";
const PAYMENT: &str = "198.18.0.11:80";
const CLIENT: &str = "unit:host/checkout";
const WINDOW: (u32, u32) = (1360, 860);

/// Keys as WebDriver writes them.
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";
const RIGHT: &str = "\u{E014}";

/// Out at the first failure, for longer than a test runs.
const LONG: &str =
    "consecutive_failures: 1, failure_ratio: 0%, open: 5m, open_max: 5m, negative_affinity: 0s";

/// So many requests, all of which must be answered.
fn ask(world: &World, address: &str, count: usize) {
    let url = format!("http://{address}/?[1-{count}]");
    let arguments = ["-s", "-o", "/dev/null", "--noproxy", "*", &url];
    world.run("curl", &arguments).expect_success();
}

/// Waits until what the script returns holds this.
fn await_text(browser: &Browser<'_>, what: &str, script: &str, part: &str) {
    eventually(what, SOON, || {
        let text = browser.text(script);
        if text.contains(part) { Ok(()) } else { Err(format!("no {part:?} in {text:?}")) }
    });
}

/// Clicks on a node or link of the map, by its id.
fn choose(browser: &Browser<'_>, id: &str) {
    let id = Value::from(id);
    let script = format!(
        "const found = [...document.querySelectorAll('[data-id]')].find((one) => one.dataset.id === {id});
         found?.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}));
         return found ? 'clicked' : 'none of ' + [...document.querySelectorAll('[data-id]')].map((one) => one.dataset.id);"
    );
    eventually(&format!("{id} on the map"), SOON, || match browser.text(&script) {
        said if said == "clicked" => Ok(()),
        said => Err(said),
    });
}

const PANEL: &str = "return document.getElementById('panel').innerText";
const GRAPH: &str =
    "return [...document.querySelectorAll('.node')].map((one) => one.getAttribute('aria-label')).join('\\n')";
const NEWS: &str = "return document.getElementById('news').innerText";
const STAGE: &str = "return document.getElementById('stage').innerText";
const UNSEEN: &str = "return document.getElementById('unseen').innerText";

#[test]
#[ignore = "kernel tier: needs root, eBPF and Chromium; run by cargo xtask test"]
fn the_page_shows_who_talks_to_whom_and_what_is_held_back() {
    if !browser::is_installed() {
        return;
    }
    let world = World::new();
    let (one, two) = (world.http("n1", "127.0.0.1:8081"), world.http("n2", "127.0.0.1:8082"));
    let three = world.tcp("n3", "127.0.0.1:8083");
    let web = Service::tcp("shop/web").at(WEB).to_with(&one, "version: v1").to_with(&two, "version: v2");
    let payment = Service::tcp("shop/payment").at(PAYMENT).policy(&format!("breaker: {{ {LONG} }}"));
    let payment = payment.policy("algorithm: round_robin").to(&three).to_address("127.0.0.1:9");
    let mut agent = world.agent(&[web.policy("split: { v1: 1, v2: 1 }"), payment]);
    let browser = Browser::start(&world, WINDOW);
    // A choice that is none is no harm.
    browser.open(&format!("{PAGE}#%E0%A4%A"));
    await_text(&browser, "the services", GRAPH, "Service shop/web");
    // One edge there is before the first picture with it: rates are of what comes between two.
    ask(&world, WEB, 1);
    await_text(&browser, "the client", GRAPH, "Client checkout");
    let_pass(Duration::from_secs(11));
    ask(&world, WEB, 40);
    choose(&browser, &format!("{CLIENT} → service shop/web"));
    // In one look: ten seconds later they are past.
    await_text(
        &browser,
        "forty answers",
        &format!("{PANEL}.replace(/[^]*Failed\\n(.*)\\n[^]*(200.*)\\n[^]*/, '$1, $2')"),
        "0\u{202f}%, 200\t40",
    );

    world.client().attempts(PAYMENT, 6);
    choose(&browser, "service shop/payment");
    await_text(&browser, "the open breaker", PANEL, "open, probe in");
    await_text(&browser, "its history", PANEL, "opened (consecutive failures)");
    await_text(&browser, "the failure", PANEL, "refused");
    await_text(&browser, "the node", GRAPH, "2 backends, 1 held back");
    let signs = "return document.querySelectorAll('.node .glyph.open').length + ' ' + document.querySelectorAll('.link.hurt, .link.bad').length";
    await_text(&browser, "its sign, and a link that looks hurt", signs, "1 ");
    assert!(!browser.text(signs).ends_with(" 0"), "the link's look does not tell");
    browser.screenshot("breaker-open");
    keys_alone_do_all(&browser);

    assert_eq!(browser.complaints(), [""; 0]);
    let elsewhere: Vec<_> = browser.requested().into_iter().filter(|url| !url.starts_with(PAGE)).collect();
    assert_eq!(elsewhere, [""; 0]);
    quantiles_are_the_agents(&browser);
    agent.kill();
    await_text(&browser, "the agent to be missed", NEWS, "does not answer since");
    assert!(browser.text(GRAPH).contains("Service shop/payment"), "the last picture is gone");
    browser.screenshot("agent-gone");
}

/// From the map to the details of a node and back, and into the filter.
fn keys_alone_do_all(browser: &Browser<'_>) {
    browser.press(ESCAPE);
    browser.press(ESCAPE);
    let hidden = "return String(document.getElementById('panel').hidden)";
    await_text(browser, "the panel to close", hidden, "true");
    let focus = "return document.activeElement.dataset.id ?? document.activeElement.id";
    await_text(browser, "the focus to come back to the node", focus, "service shop/payment");
    browser.press(RIGHT);
    await_text(browser, "the focus on the backends", focus, "backends shop/payment");
    browser.press(ENTER);
    await_text(browser, "the focus in the panel", focus, "panel");
    await_text(browser, "the backends' panel", PANEL, "127.0.0.1:9");
    browser.press(ESCAPE);
    browser.press("/");
    await_text(browser, "the focus in the filter", focus, "filter");
    browser.press("web");
    eventually("the filter to hold", SOON, || match browser.text(GRAPH) {
        text if text.contains("shop/payment") || !text.contains("shop/web") => Err(text),
        _ => Ok(()),
    });
    browser.press(ESCAPE);
    await_text(browser, "everything again", GRAPH, "shop/payment");
    let moment = "return document.getElementById('moment').innerText";
    browser.press(",");
    await_text(browser, "an earlier moment", moment, "before");
    browser.press("p");
    await_text(browser, "now again", moment, "live");
    browser.press("t");
    await_text(browser, "light", "return document.documentElement.dataset.theme", "light");
    browser.screenshot("light");
    browser.press("t");
    await_text(browser, "dark", "return document.documentElement.dataset.theme", "dark");
    browser.screenshot("dark");
}

/// The page's own arithmetic gives what the agent's does.
fn quantiles_are_the_agents(browser: &Browser<'_>) {
    let script = "const { quantile } = await import('/map/model.js');
        const bounds = Array.from({ length: 22 }, (_, bucket) => 16000 * 2 ** bucket);
        const two = [0, 50, 0, 50];
        const beyond = Array(23).fill(0); beyond[22] = 7;
        return [0.25, 0.5, 0.75, 1].map((share) => quantile(two, bounds, share)).concat(quantile([], bounds, 0.5), quantile(beyond, bounds, 0.5)).join(' ')";
    let script = format!("return (async () => {{ {script} }})()");
    assert_eq!(browser.text(&script), "24000 32000 96000 128000  33554432000");
    let script = "const { Memory } = await import('/map/model.js');
        const map = await (await fetch('/map.json')).json();
        const memory = new Memory();
        for (let t = 0; t < 3000; t += 1) memory.push(t * 2000, [{ source: 'a', map: structuredClone(map) }]);
        const [one, two] = memory.frames.slice(-2).map((frame) => frame.maps[0].map.services[0]);
        return [memory.frames.length < 150, Math.round((memory.frames.at(-1).t - memory.frames[0].t) / 60_000), one === two].join(' ')";
    let script = format!("return (async () => {{ {script} }})()");
    assert_eq!(browser.text(&script), "true 15 true", "what is kept is bounded and shared");
}

#[test]
#[ignore = "kernel tier: needs root, eBPF and Chromium; run by cargo xtask test"]
fn the_page_is_of_use_with_a_thousand_services_and_with_none() {
    if !browser::is_installed() {
        return;
    }
    let world = World::new();
    let server = world.http("n1", "127.0.0.1:8081");
    let service = |number: usize| {
        let address = format!("198.18.{}.{}:80", 1 + number / 250, 1 + number % 250);
        Service::tcp(&format!("team-{}/service-{number:03}", number % 7)).at(&address).to(&server)
    };
    let many: Vec<Service> = (0..1_000).map(service).collect();
    let agent = world.agent(&[]);
    let browser = Browser::start(&world, WINDOW);
    browser.open(PAGE);
    await_text(&browser, "advice", STAGE, "No services yet");
    browser.screenshot("empty");
    agent.replace(&config(&many));
    await_text(&browser, "what is left out", UNSEEN, "964 less busy services");
    for _ in 0..3 {
        (0..30).for_each(|number| ask(&world, &format!("198.18.1.{}:80", 1 + number * 7), 3));
    }
    await_text(&browser, "clients", GRAPH, "Client checkout");
    browser.screenshot("thousand");
    browser.press("/service-997");
    await_text(&browser, "one that is not busy", GRAPH, "Service team-3/service-997");
    assert_eq!(browser.text(UNSEEN).find("less busy services"), None);
    browser.press(ESCAPE);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
#[ignore = "kernel tier: needs root, eBPF and Chromium; run by cargo xtask test"]
fn one_page_draws_the_maps_of_several_agents() {
    if !browser::is_installed() {
        return;
    }
    let world = World::new();
    let server = world.http("n1", "127.0.0.1:8081");
    let agent = world.agent(&[Service::tcp("shop/web").at(WEB).to(&server)]);
    ask(&world, WEB, 2);
    let mut other: Value = serde_json::from_str(&agent.map(&["-o", "json"]).expect_success()).expect("JSON");
    other["node"] = "node-b".into();
    other["services"][0]["name"] = "shop/<b>other</b>".into();
    other["edges"] = Value::Array(Vec::new());
    let listener = world.namespace().run(|| TcpListener::bind("127.0.0.1:9470")).expect("a free port");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _asked = stream.read(&mut [0; 4096]);
            let body = other.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                PAGE.trim_end_matches('/'),
                body.len()
            );
            let _gone = stream.write_all((head + &body).as_bytes());
        }
    });
    let browser = Browser::start(&world, WINDOW);
    browser.open(&format!("{PAGE}?agents=http://127.0.0.1:9464,http://127.0.0.1:9470,nonsense"));
    await_text(&browser, "both services", GRAPH, "Service shop/web");
    await_text(&browser, "a name as it is", GRAPH, "Service shop/<b>other</b>");
    await_text(&browser, "both nodes", "return document.getElementById('nodes').innerText", "node-b");
    await_text(&browser, "the wrong address", NEWS, "nonsense");
    assert_eq!(browser.run("return document.querySelectorAll('#graph b').length"), 0);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn the_command_draws_what_the_page_does() {
    let world = World::new();
    let server = world.http("n1", "127.0.0.1:8081");
    let agent = world.agent(&[Service::tcp("shop/web").at(WEB).to(&server)]);
    ask(&world, WEB, 1);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let shown = scope.spawn(|| agent.map(&["--over", "4"]).expect_success());
        let_pass(Duration::from_secs(1));
        ask(&world, WEB, 40);
        let table = shown.join().expect("no panic");
        let line =
            table.lines().find(|line| line.starts_with("checkout")).unwrap_or_else(|| panic!("{table}"));
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[1], "shop/web", "{table}");
        let rate: f64 = cells[5].parse().expect("requests per second");
        let least = 40.0 / begin.elapsed().as_secs_f64() - 0.1;
        assert!((least..=10.0).contains(&rate), "40 requests in 4 s and a little, {least} or more: {table}");
    });
    assert!(agent.map(&["-o", "dot"]).expect_success().starts_with("digraph segue {"));
    assert!(agent.map(&["-o", "mermaid"]).expect_success().starts_with("flowchart LR"));
}
