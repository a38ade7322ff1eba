//! What the DaemonSet gives a pod is enough: namespaces of its own, three capabilities, a root file system that cannot be written
//! to; and to unload, one. What the manifest says is compared by `cargo xtask`, and not known here.

use std::process::Command;

use segue_tests::agent::SOON;
use segue_tests::service::Service;
use segue_tests::wait::eventually;
use segue_tests::world::{World, beside_test};

const PAYMENT: &str = "198.18.0.10:80";
const N1: &str = "127.0.0.1:8081";

/// Of the host's namespaces the pod has none. That of the network is the test's, in which the agent is asked.
const POD: [&str; 8] = ["unshare", "-m", "-p", "-i", "-u", "-C", "--fork", "--kill-child"];

fn payment() -> Service {
    Service::tcp("shop/payment").at(PAYMENT).to_address(N1)
}

/// Only the world's directory, where the BPF file system, the state and the socket are, can be written to.
fn script(world: &World, capabilities: &str) -> String {
    let directory = world.directory().display();
    format!(
        "mount --make-rprivate / && mount -t proc proc /proc && mount --rbind {directory} {directory} &&
         mount -o remount,bind,ro / && ! touch /segue-was-here 2>/dev/null &&
         exec setpriv --no-new-privs --bounding-set={capabilities} --inh-caps=-all -- \"$@\""
    )
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn a_pod_needs_no_namespace_of_the_host_and_three_capabilities_and_one_to_unload() {
    let world = World::new();
    let _server = world.tcp("n1", N1);
    let run = script(&world, "-all,+bpf,+net_admin,+perfmon");
    let mut agent = world.agent_by(&[POD.as_slice(), &["sh", "-c", &run, "sh"]].concat(), &[payment()]);
    assert_eq!(agent.status()["pid"], 1, "it sees its own processes only");
    let mut client = world.client();
    assert_eq!(client.greetings(PAYMENT, 3), ["n1"; 3]);
    assert_eq!(agent.backend("shop/payment", N1, "selections"), 3);
    agent.kill();
    assert_eq!(client.greetings(PAYMENT, 3), ["n1"; 3]);

    let unload = script(&world, "-all,+bpf");
    let segue = beside_test("segue");
    let bpffs = world.bpffs();
    let words = [segue.to_string_lossy(), "unload".into(), "--bpffs".into(), bpffs.to_string_lossy()];
    let mut command = Command::new(POD[0]);
    command.args(&POD[1..]).args(["sh", "-c", &unload, "sh"]).args(words.iter().map(AsRef::as_ref));
    let said = world.start_outside(command).finish().expect_success();
    assert!(said.starts_with("detached "), "{said}");
    assert!(client.connect_tcp(PAYMENT).is_err(), "the data plane is still there");
}

#[test]
#[ignore = "kernel tier: needs root and eBPF; run by cargo xtask test"]
fn who_unloads_and_stays_goes_when_told_to() {
    let world = World::new();
    let mut agent = world.agent(&[payment()]);
    agent.kill();
    let mut command = Command::new(beside_test("segue"));
    command.args(["unload", "--stay", "--bpffs"]).arg(world.bpffs());
    let mut process = world.start_outside(command);
    eventually("it to unload", SOON, || match process.output() {
        said if said.contains("detached ") => Ok(()),
        said => Err(said),
    });
    assert!(process.ended().is_none(), "it stays");
    process.signal(libc::SIGTERM);
    let status = process.wait(SOON);
    assert!(status.success(), "{status}");
}
