//! Programs of others through a service address, over IPv4 and IPv6: each works, and each sees the service address
//! as its peer where it looks.

use segue_tests::nginx::Nginx;
use segue_tests::program::Program;
use segue_tests::service::Service;
use segue_tests::world::World;

const WEB: &str = "198.18.0.10";
const WEB_V6: &str = "fd00:5e::10";

/// A dual-stack service with one TCP port in front of `four` on 127.0.0.1 and `six` on ::1.
fn dual_stack(protocol: fn(&str) -> Service, port: u16, backend_port: u16) -> Service {
    let service = protocol("shop/web").at(&format!("{WEB}:{port}")).at(&format!("[{WEB_V6}]:{port}"));
    service.to_address(&format!("127.0.0.1:{backend_port}")).to_address(&format!("[::1]:{backend_port}"))
}

fn python(world: &World, script: &str, arguments: &[&str]) -> String {
    let mut all = vec!["-c", script];
    all.extend_from_slice(arguments);
    world.run("python3", &all).expect_success()
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn curl() {
    let world = World::new();
    let _servers = [world.http("four", "127.0.0.1:8081"), world.http("six", "[::1]:8081")];
    let _agent = world.agent(&[dual_stack(Service::tcp, 80, 8081)]);
    let curl = |url: &str| {
        let format = "%{remote_ip} %{remote_port}";
        world
            .run("curl", &["-sS", "-g", "--noproxy", "*", "--max-time", "10", "-w", format, url])
            .expect_success()
    };
    assert_eq!(curl("http://198.18.0.10/"), "four\n198.18.0.10 80");
    assert_eq!(curl("http://[fd00:5e::10]/"), "six\nfd00:5e::10 80");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn netcat() {
    let world = World::new();
    let _servers = [world.tcp("four", "127.0.0.1:8081"), world.tcp("six", "[::1]:8081")];
    let _agent = world.agent(&[dual_stack(Service::tcp, 80, 8081)]);
    assert_eq!(world.run("nc", &["-n", "-N", "-w", "10", WEB, "80"]).expect_success(), "four\n");
    assert_eq!(world.run("nc", &["-n", "-N", "-w", "10", WEB_V6, "80"]).expect_success(), "six\n");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn python_http_client() {
    let script = "
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=10)
connection.request('GET', '/')
body = connection.getresponse().read().decode().strip()
print(body, connection.sock.getpeername()[:2])";
    let world = World::new();
    let _servers = [world.http("four", "127.0.0.1:8081"), world.http("six", "[::1]:8081")];
    let _agent = world.agent(&[dual_stack(Service::tcp, 80, 8081)]);
    assert_eq!(python(&world, script, &[WEB]), "four ('198.18.0.10', 80)\n");
    assert_eq!(python(&world, script, &[WEB_V6]), "six ('fd00:5e::10', 80)\n");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn python_asyncio_streams_and_datagrams() {
    let script = "
import asyncio, sys

class Question(asyncio.DatagramProtocol):
    def __init__(self, done): self.done = done
    def datagram_received(self, data, source): self.done.set_result((data.decode(), source[:2]))
    def error_received(self, error): self.done.set_exception(error)

async def main(host):
    reader, writer = await asyncio.open_connection(host, 80)
    print((await reader.readline()).decode().strip(), writer.get_extra_info('peername')[:2])
    writer.close()
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: Question(done), remote_addr=(host, 53))
    transport.sendto(b'?')
    print(*await asyncio.wait_for(done, 10), transport.get_extra_info('peername')[:2])
    transport.close()

asyncio.run(main(sys.argv[1]))";
    let world = World::new();
    let _streams = [world.tcp("four", "127.0.0.1:8081"), world.tcp("six", "[::1]:8081")];
    let datagrams = [world.udp("four", "127.0.0.1:5301"), world.udp("six", "[::1]:5301")];
    let names = Service::udp("shop/names").at("198.18.0.10:53").at("[fd00:5e::10]:53");
    let names = names.to(&datagrams[0]).to(&datagrams[1]);
    let _agent = world.agent(&[dual_stack(Service::tcp, 80, 8081), names]);
    assert_eq!(
        python(&world, script, &[WEB]),
        "four ('198.18.0.10', 80)\nfour:? ('198.18.0.10', 53) ('198.18.0.10', 53)\n"
    );
    assert_eq!(
        python(&world, script, &[WEB_V6]),
        "six ('fd00:5e::10', 80)\nsix:? ('fd00:5e::10', 53) ('fd00:5e::10', 53)\n"
    );
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn python_unconnected_datagrams() {
    let script = "
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(10)
    s.sendto(b'?', (sys.argv[1], 53))
    data, source = s.recvfrom(512)
    print(data.decode(), source[:2])";
    let world = World::new();
    let _servers = [world.udp("four", "127.0.0.1:5301"), world.udp("six", "[::1]:5301")];
    let _agent = world.agent(&[dual_stack(Service::udp, 53, 5301)]);
    assert_eq!(python(&world, script, &[WEB]), "four:? ('198.18.0.10', 53)\n");
    assert_eq!(python(&world, script, &[WEB_V6]), "six:? ('fd00:5e::10', 53)\n");
    assert_eq!(python(&world, script, &["::ffff:198.18.0.10"]), "four:? ('::ffff:198.18.0.10', 53)\n");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn nginx_as_a_proxy_to_service_addresses() {
    let world = World::new();
    let _servers = [world.http("four", "127.0.0.1:8081"), world.http("six", "[::1]:8081")];
    let _agent = world.agent(&[dual_stack(Service::tcp, 80, 8081)]);
    let block = format!(
        "add_header Upstream $upstream_addr always; location /four {{ proxy_pass http://{WEB}:80; }} \
         location /six {{ proxy_pass http://[{WEB_V6}]:80; }}"
    );
    let _nginx = Nginx::new(&world).serve(&["127.0.0.1:8000"], &block).start();
    for (path, body, upstream) in
        [("four", "four", "Upstream: 198.18.0.10:80"), ("six", "six", "Upstream: [fd00:5e::10]:80")]
    {
        let url = format!("http://127.0.0.1:8000/{path}");
        let answer = world.run_outside("curl", &["-sS", "-i", "--noproxy", "*", "--max-time", "10", &url]);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\n{body}\n")), "{answer}");
        assert!(answer.contains(upstream), "{answer}");
    }
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn redis() {
    let world = World::new();
    let mut command = std::process::Command::new("redis-server");
    command.args(["--port", "6380", "--bind", "127.0.0.1", "::1", "--save", "", "--daemonize", "no"]);
    command.arg("--dir").arg(world.directory());
    let server = world.start_outside(command);
    world.await_listener("127.0.0.1:6380", &server);
    world.await_listener("[::1]:6380", &server);
    let agent = world.agent(&[dual_stack(Service::tcp, 6379, 6380)]);
    let cli = |host: &str, words: &[&str]| {
        let mut arguments = vec!["-h", host, "-p", "6379"];
        arguments.extend_from_slice(words);
        world.run("redis-cli", &arguments).expect_success()
    };
    assert_eq!(cli(WEB, &["SET", "tune", "segue"]), "OK\n");
    assert_eq!(cli(WEB_V6, &["GET", "tune"]), "segue\n");
    assert_eq!(agent.backend("shop/web", "127.0.0.1:6380", "selections"), 1);
    assert_eq!(agent.backend("shop/web", "[::1]:6380", "selections"), 1);
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn dig_over_udp_and_tcp() {
    let world = World::new();
    let dnsmasq = start_dnsmasq(&world);
    world.await_listener("127.0.0.1:5353", &dnsmasq);
    world.await_listener("[::1]:5353", &dnsmasq);
    let streams = Service::tcp("shop/names-tcp").at("198.18.0.10:53").at("[fd00:5e::10]:53");
    let streams = streams.to_address("127.0.0.1:5353").to_address("[::1]:5353");
    let _agent = world.agent(&[dual_stack(Service::udp, 53, 5353), streams]);
    for (server, transport) in [(WEB, "+notcp"), (WEB_V6, "+notcp"), (WEB, "+tcp"), (WEB_V6, "+tcp")] {
        let at = format!("@{server}");
        let arguments =
            [&at, transport, "+time=5", "+tries=1", "+noall", "+answer", "+stats", "payment.shop.test", "A"];
        let answer = world.run("dig", &arguments).expect_success();
        // dig itself refuses an answer that comes from anywhere else than where it asked.
        assert!(answer.contains("192.0.2.7"), "{server} {transport}: {answer}");
        assert!(answer.contains(&format!("SERVER: {server}#53")), "{server} {transport}: {answer}");
        assert!(!answer.contains("reply from unexpected source"), "{server} {transport}: {answer}");
    }
}

fn start_dnsmasq(world: &World) -> Program {
    let mut command = std::process::Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-poll"]);
    command.args(["--port=5353", "--listen-address=127.0.0.1", "--listen-address=::1", "--bind-interfaces"]);
    command.args(["--user=root", "--group=root", "--pid-file=", "--log-facility=-"]);
    command.arg("--address=/payment.shop.test/192.0.2.7");
    world.start_outside(command)
}
