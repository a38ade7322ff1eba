//! Questions about flows over the real socket.

use agent_ebpf::abi::CloseReason;

use super::*;
use crate::admin::api::tests::Server;
use crate::admin::specimen::Specimen;
use crate::cli::client::{Client, ClientError};
use crate::flows::Record;
use crate::flows::record::Happening;

async fn started() -> (Server, Client) {
    let server = Server::start(Specimen::default()).await;
    let client = Client::new(server.path.clone());
    (server, client)
}

fn record(specimen: &Specimen, service: &str, happening: Happening) -> Arc<Record> {
    Arc::new(Record { service: service.into(), happening, ..(*specimen.record()).clone() })
}

#[tokio::test]
async fn totals_are_those_that_were_asked_for() {
    let (server, client) = started().await;
    let edges = |query: &'static str| {
        let client = client.clone();
        async move { client.get::<Flows>(&format!("/v1/flows{query}")).await.map(|flows| flows.edges) }
    };
    assert_eq!(edges("").await.expect("an answer").len(), 3);
    let nginx = edges("?from-workload=nginx&protocol=tcp").await.expect("an answer");
    assert_eq!(nginx.len(), 1);
    let failed = edges("?from-workload=nginx&http-status=5xx").await.expect("an answer");
    assert_eq!(failed[0].requests[0].by_status, [("503".into(), 7)].into());
    server.stop().await;
}

#[tokio::test]
async fn what_is_remembered_is_answered_with_what_the_memory_holds() {
    let (server, client) = started().await;
    for happening in [Happening::Opened, Happening::Closed(CloseReason::Fin)] {
        server.specimen.publish(&record(&server.specimen, "shop/payment", happening));
        server.specimen.publish(&record(&server.specimen, "dns", happening));
    }
    let recent: Recent = client.get("/v1/flows/recent?to-service=dns&last=1").await.expect("an answer");
    assert_eq!(recent.records, [record(&server.specimen, "dns", Happening::Closed(CloseReason::Fin))]);
    assert_eq!((recent.memory.held, recent.memory.forgotten), (4, 0));
    let all: Recent = client.get("/v1/flows/recent").await.expect("an answer");
    assert_eq!(all.records.len(), 4);
    let later: Recent = client.get("/v1/flows/recent?since=2027-01-01T00:00:00Z").await.expect("an answer");
    assert!(later.records.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_follower_gets_what_it_asked_for_first_of_the_past_then_of_what_comes() {
    let (server, client) = started().await;
    let specimen = &server.specimen;
    let (opened, closed) = (Happening::Opened, Happening::Closed(CloseReason::Fin));
    specimen.publish(&record(specimen, "dns", opened));
    specimen.publish(&record(specimen, "shop/payment", opened));
    let mut lines = client.lines("/v1/flows/follow?not.to-service=dns&last=5").await.expect("a stream");
    specimen.publish(&record(specimen, "dns", closed));
    specimen.publish(&record(specimen, "shop/payment", closed));
    let mut got = Vec::new();
    for _ in 0..3 {
        let line = lines.next().await.expect("the stream is open").expect("the stream goes on");
        got.push(serde_json::from_str::<FollowLine>(&line).expect("a line"));
    }
    assert!(matches!(&got[0], FollowLine::Memory { memory } if memory.held == 2), "{got:?}");
    let wanted = [opened, closed].map(|happening| record(specimen, "shop/payment", happening));
    assert_eq!(got[1..], wanted.map(FollowLine::Record));
    server.stop().await;
}

#[tokio::test]
async fn requests_are_followed_by_those_who_ask_for_them() {
    let (server, client) = started().await;
    let specimen = &server.specimen;
    let mut connections = client.lines("/v1/flows/follow").await.expect("a stream");
    let mut all = client.lines("/v1/flows/follow?requests=true").await.expect("a stream");
    let mut errors = client.lines("/v1/flows/follow?http-status=5xx").await.expect("a stream");
    let (request, opened) = (specimen.request(), record(specimen, "dns", Happening::Opened));
    assert_eq!(specimen.requests.send(Arc::clone(&request)).expect("readers"), 2);
    let next = async |lines: &mut crate::cli::client::Lines| {
        let line = lines.next().await.expect("the stream is open").expect("the stream goes on");
        serde_json::from_str::<FollowLine>(&line).expect("a line")
    };
    assert_eq!(next(&mut all).await, FollowLine::Record(Arc::clone(&request)));
    assert_eq!(next(&mut errors).await, FollowLine::Record(request));
    specimen.publish(&opened);
    assert_eq!(next(&mut connections).await, FollowLine::Record(Arc::clone(&opened)));
    assert_eq!(next(&mut all).await, FollowLine::Record(opened));
    server.stop().await;
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_with_what_may_be_meant() {
    let (server, client) = started().await;
    for (path, expected, part) in [
        ("/v1/flows?to-sevice=x", 400, "did you mean `to-service`"),
        ("/v1/flows?to-service=paymnt", 404, "did you mean `shop/payment`"),
        ("/v1/flows?last=3", 400, "/v1/flows/recent"),
        ("/v1/flows?to-ip=10.0.0.1", 400, "single events"),
        ("/v1/flows/recent?http-status=500", 400, "counted, not remembered"),
        ("/v1/flows/follow?requests=maybe", 400, "true or false"),
        ("/v1/flows/recent?last=x", 400, "no number"),
        ("/v1/flows/recent?since=yesterday", 400, "no time"),
        ("/v1/flows/follow?verdict=refusd", 400, "`refused`"),
        ("/v1/flows/follow?not.from-workload=ngin", 404, "`host/nginx`"),
    ] {
        let error = client.get::<Flows>(path).await.expect_err("a wrong question");
        let ClientError::Refused { status, error } = error else { panic!("{path}: {error}") };
        assert_eq!(status, expected, "{path}: {error}");
        assert!(error.contains(part), "{path}: {error}");
    }
    server.stop().await;
}
