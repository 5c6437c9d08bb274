//! QMP against a peer that the test plays itself.
#![allow(clippy::unwrap_used)]

use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// The other side: reads commands and says whatever a test wants.
struct Peer {
    lines: BufReader<ReadHalf<DuplexStream>>,
    out: WriteHalf<DuplexStream>,
}

impl Peer {
    fn new(stream: DuplexStream) -> Self {
        let (read_half, out) = tokio::io::split(stream);
        Self { lines: BufReader::new(read_half), out }
    }

    async fn say(&mut self, text: &str) {
        self.out.write_all(text.as_bytes()).await.unwrap();
        self.out.write_all(b"\r\n").await.unwrap();
    }

    async fn command(&mut self) -> Value {
        let mut line = Vec::new();
        assert!(timeout(LIMIT, read_line(&mut self.lines, &mut line)).await.unwrap().unwrap());
        serde_json::from_slice(&line).unwrap()
    }

    async fn answer(&mut self, command: &Value, returned: Value) {
        self.say(&json!({ "return": returned, "id": command["id"] }).to_string()).await;
    }
}

async fn session() -> (Qmp, Peer) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut peer = Peer::new(theirs);
    let greet = async {
        peer.say(r#"{"QMP":{"version":{"qemu":{"major":99}},"capabilities":["oob","telepathy"]}}"#).await;
        let command = peer.command().await;
        assert_eq!(command, json!({"execute": "qmp_capabilities", "id": 0}));
        peer.answer(&command, json!({})).await;
        peer
    };
    let (qmp, peer) = tokio::join!(Qmp::start(ours, LIMIT), greet);
    (qmp.unwrap(), peer)
}

#[tokio::test]
async fn commands_carry_arguments_and_ids_and_return_values() {
    let (qmp, mut peer) = session().await;
    assert_eq!(qmp.greeting()["version"]["qemu"]["major"], 99);
    let peer_side = async {
        let command = peer.command().await;
        assert_eq!(command, json!({"execute": "query-status", "id": 1, "arguments": {"deep": true}}));
        peer.answer(&command, json!({"status": "running"})).await;
    };
    let (reply, ()) = tokio::join!(qmp.execute("query-status", json!({"deep": true}), LIMIT), peer_side);
    assert_eq!(reply.unwrap(), json!({"status": "running"}));
    assert_eq!(qmp.pending_calls(), 0);
}

#[tokio::test]
async fn replies_out_of_order_reach_their_own_calls() {
    let (qmp, mut peer) = session().await;
    let peer_side = async {
        let first = peer.command().await;
        let second = peer.command().await;
        peer.answer(&second, json!({"of": second["execute"]})).await;
        peer.answer(&first, json!({"of": first["execute"]})).await;
    };
    let (one, two, ()) = tokio::join!(
        qmp.execute("one", Value::Null, LIMIT),
        qmp.execute("two", Value::Null, LIMIT),
        peer_side
    );
    assert_eq!(one.unwrap()["of"], "one");
    assert_eq!(two.unwrap()["of"], "two");
}

#[tokio::test]
async fn a_refusal_carries_the_words_of_qemu() {
    let (qmp, mut peer) = session().await;
    let peer_side = async {
        let command = peer.command().await;
        let error = json!({"class": "DeviceNotFound", "desc": "Device 'x' not found", "more": 1});
        peer.say(&json!({"error": error, "id": command["id"]}).to_string()).await;
    };
    let (reply, ()) = tokio::join!(qmp.execute("device_del", json!({"id": "x"}), LIMIT), peer_side);
    assert_eq!(
        reply.unwrap_err().to_string(),
        "QEMU refused `device_del`: Device 'x' not found (DeviceNotFound)"
    );
}

#[tokio::test]
async fn unknown_events_members_and_values_pass_through_in_order() {
    let (qmp, mut peer) = session().await;
    peer.say(r#"{"event":"FLUX_CAPACITOR","data":{"gigawatts":1.21},"timestamp":{"seconds":1}}"#).await;
    peer.say(r#"{"event":"GUEST_PANICKED","data":{"action":"time-travel","info":{"type":"tdx"}},"new":[]}"#)
        .await;
    peer.say(r#"{"weather":"fine"}"#).await;
    peer.say(r#"{"return":{},"id":"not a number"}"#).await;
    peer.say(r#"{"event":"STOP"}"#).await;
    let first = qmp.next_event().await.unwrap();
    assert_eq!((first.name.as_str(), first.data), ("FLUX_CAPACITOR", json!({"gigawatts": 1.21})));
    let second = qmp.next_event().await.unwrap();
    assert_eq!(second.data["info"]["type"], "tdx");
    assert_eq!(qmp.next_event().await.unwrap(), QmpEvent { name: "STOP".to_owned(), data: Value::Null });
    // The session still works.
    let peer_side = async {
        let command = peer.command().await;
        peer.answer(&command, json!(7)).await;
    };
    let (reply, ()) = tokio::join!(qmp.execute("still-there", Value::Null, LIMIT), peer_side);
    assert_eq!(reply.unwrap(), 7);
}

#[tokio::test]
async fn a_late_reply_is_ignored_and_the_next_call_gets_its_own() {
    let (qmp, mut peer) = session().await;
    let late = qmp.execute("slow", Value::Null, Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(late.to_string(), "QEMU did not answer `slow` within 1 ms");
    assert_eq!(qmp.pending_calls(), 0);
    let slow = peer.command().await;
    peer.answer(&slow, json!("late")).await;
    let peer_side = async {
        let command = peer.command().await;
        assert_ne!(command["id"], slow["id"]);
        peer.answer(&command, json!("in time")).await;
    };
    let (reply, ()) = tokio::join!(qmp.execute("next", Value::Null, LIMIT), peer_side);
    assert_eq!(reply.unwrap(), "in time");
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let (qmp, mut peer) = session().await;
    {
        let mut call = Box::pin(qmp.execute("dropped", Value::Null, LIMIT));
        // Polled once by the select, then dropped with the command on its way.
        tokio::select! {
            biased;
            _ = &mut call => panic!("nobody has answered"),
            command = peer.command() => assert_eq!(command["execute"], "dropped"),
        }
        assert_eq!(qmp.pending_calls(), 1);
    }
    assert_eq!(qmp.pending_calls(), 0);
}

#[tokio::test]
async fn garbage_closes_the_session_and_fails_who_waits() {
    let (qmp, mut peer) = session().await;
    let peer_side = async {
        peer.command().await;
        peer.say("qemu-system-x86_64: something on the wrong channel").await;
    };
    let (reply, ()) = tokio::join!(qmp.execute("query-status", Value::Null, LIMIT), peer_side);
    let error = reply.unwrap_err();
    assert!(matches!(&error, QmpError::Closed { reason } if reason.contains("no JSON")), "{error:?}");
    assert_eq!(qmp.next_event().await, None);
    let after = qmp.execute("query-status", Value::Null, LIMIT).await.unwrap_err();
    assert_eq!(after, error, "later calls say the same reason at once");
}

#[tokio::test]
async fn a_line_without_end_is_refused_at_the_limit() {
    let (qmp, mut peer) = session().await;
    let flood = async {
        let block = vec![b'x'; 64 * 1024];
        // Ends with an error as soon as the reader has given up.
        for _ in 0..=(MAX_LINE_BYTES / block.len() + 2) {
            if peer.out.write_all(&block).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        event = timeout(LIMIT, qmp.next_event()) => assert_eq!(event.unwrap(), None),
        () = async { flood.await; std::future::pending().await } => unreachable!(),
    }
    assert!(qmp.closed_reason().unwrap().contains("longer than 4194304 bytes"));
}

#[tokio::test]
async fn events_before_a_disconnect_are_still_delivered() {
    let (qmp, mut peer) = session().await;
    peer.say(r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#).await;
    drop(peer);
    assert_eq!(qmp.next_event().await.unwrap().name, "SHUTDOWN");
    assert_eq!(qmp.next_event().await, None);
    assert_eq!(qmp.closed_reason().unwrap(), "the peer closed the connection");
}

#[tokio::test]
async fn a_flood_of_events_drops_the_oldest_and_counts_them() {
    let (qmp, mut peer) = session().await;
    let extra = 10;
    for number in 0..EVENT_QUEUE_LENGTH + extra {
        peer.say(&format!(r#"{{"event":"E{number}"}}"#)).await;
    }
    // A reply comes after all events in the stream, so they have all been sorted by then.
    let peer_side = async {
        let command = peer.command().await;
        peer.answer(&command, Value::Null).await;
    };
    let (reply, ()) = tokio::join!(qmp.execute("barrier", Value::Null, LIMIT), peer_side);
    reply.unwrap();
    assert_eq!(qmp.dropped_events(), 10);
    assert_eq!(qmp.next_event().await.unwrap().name, "E10");
}

#[tokio::test]
async fn a_peer_that_is_not_qmp_is_refused() {
    for (said, expected) in
        [("SSH-2.0-OpenSSH_9.2", "not JSON"), (r#"{"event":"STOP"}"#, "the first line is no QMP greeting")]
    {
        let (ours, theirs) = tokio::io::duplex(1024);
        let mut peer = Peer::new(theirs);
        peer.say(said).await;
        let error = Qmp::start(ours, LIMIT).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let (ours, theirs) = tokio::io::duplex(1024);
    drop(theirs);
    let error = Qmp::start(ours, LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start a QMP session: the peer closed the connection");
    let (ours, _silent) = tokio::io::duplex(1024);
    let error = Qmp::start(ours, Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start a QMP session: no greeting within 1 ms");
}
