#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, duplex};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::guest_agent::scripted::agent;
use crate::network::{DialError, Ports};

fn probes(probe: Value) -> Probes {
    let instance: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "vm"},
        "spec": {
            "readinessProbe": probe,
            "domain": {"devices": {"interfaces": [{
                "name": "default", "masquerade": {}, "ports": [{"name": "web", "port": 80}, {"port": 22}],
            }]}},
        },
    }))
    .unwrap();
    Probes::of(&instance)
}

/// The outcome of an attempt at the readiness probe.
async fn attempted(probe: Value, guest: Guest<'_>) -> Result<(), String> {
    match probes(probe).attempt(ProbeKind::Readiness, guest).await.unwrap() {
        ProbeOutcome::Success | ProbeOutcome::Warning(_) => Ok(()),
        ProbeOutcome::Failure(why) => Err(why),
    }
}

/// A guest that has one TCP port, where it sends `answer` once it has read a request; nothing when that is none, and what
/// it has read.
fn web(port: u16, answer: Option<Vec<u8>>) -> (Door, Arc<Mutex<String>>) {
    let heard = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&heard);
    let door = Door::to(Ports::default(), move |asked| {
        if asked != port {
            return Err(DialError::Refused { port: asked });
        }
        let (ours, mut guest) = duplex(1 << 16);
        let (answer, told) = (answer.clone(), Arc::clone(&told));
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match guest.read_u8().await {
                    Ok(byte) => head.push(byte),
                    // Whoever only connects says nothing.
                    Err(_) => return,
                }
            }
            *told.lock().unwrap() = String::from_utf8(head).unwrap();
            match answer {
                // A probe reads no more than it wants.
                Some(answer) => _ = guest.write_all(&answer).await,
                None => std::future::pending().await,
            }
        });
        Ok(ours)
    });
    (door, heard)
}

fn guest<'a>(door: Option<&'a Door>, agent: &'a Agent) -> Guest<'a> {
    Guest { door, agent, is_paused: false }
}

#[tokio::test]
async fn a_port_is_open_or_not() {
    let agent = Agent::default();
    let (door, _) = web(80, None);
    for (port, expected) in [
        (json!(80), Ok(())),
        (json!("80"), Ok(())),
        (json!("web"), Ok(())),
        (json!(81), Err("the guest refuses connections to port 81")),
        (json!("ssh"), Err("no interface has a port named `ssh`")),
        (json!(0), Err("0 is no port from 1 to 65535")),
        (json!(65_536), Err("65536 is no port from 1 to 65535")),
        (json!(-1), Err("-1 is no port from 1 to 65535")),
    ] {
        let found = attempted(json!({"tcpSocket": {"port": port}}), guest(Some(&door), &agent)).await;
        assert_eq!(found, expected.map_err(str::to_owned), "{port}");
    }
    let found = attempted(json!({"tcpSocket": {"port": 80}}), guest(None, &agent)).await;
    assert_eq!(found, Err("the machine has no network".to_owned()));
    let probes = probes(json!({"tcpSocket": {"port": 80}}));
    assert_eq!(probes.attempt(ProbeKind::Liveness, guest(Some(&door), &agent)).await, None);
}

#[tokio::test]
async fn a_status_from_200_to_399_is_success() {
    let agent = Agent::default();
    for (code, is_good) in [
        (199, false),
        (200, true),
        (204, true),
        (302, true),
        (399, true),
        (400, false),
        (404, false),
        (500, false),
    ] {
        let (door, heard) = web(80, Some(format!("HTTP/1.1 {code} So\r\n\r\n").into_bytes()));
        let found =
            attempted(json!({"httpGet": {"port": "web", "path": "/up"}}), guest(Some(&door), &agent)).await;
        // 199 is informational: what comes after it counts, and nothing does.
        match (code, is_good) {
            (199, _) => assert!(found.unwrap_err().starts_with("connection closed"), "{code}"),
            (_, true) => assert_eq!(found, Ok(()), "{code}"),
            (_, false) => {
                assert_eq!(found, Err(format!("HTTP probe failed with statuscode: {code}")));
            }
        }
        assert!(heard.lock().unwrap().starts_with("GET /up HTTP/1.1\r\n"), "{heard:?}");
    }
}

/// A guest whose answer to a path is a redirect, `PATH STATUS LOCATION` a line; other paths are answered well. What it was
/// asked for, as `PORT PATH HOST`.
fn leading(answers: &'static str) -> (Door, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    let door = Door::to(Ports::default(), move |port| {
        let (ours, guest) = duplex(1 << 16);
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            let mut guest = BufReader::new(guest);
            let (mut path, mut host) = (String::new(), String::new());
            loop {
                let mut line = String::new();
                guest.read_line(&mut line).await.unwrap();
                match line.trim_end().split_once(' ') {
                    Some(("GET", rest)) => path = rest.split(' ').next().unwrap().to_owned(),
                    Some(("host:", name)) => host = name.to_owned(),
                    Some(_) => {}
                    None => break,
                }
            }
            told.lock().unwrap().push(format!("{port} {path} {host}"));
            let found = answers.lines().map(|line| line.splitn(3, ' ').collect::<Vec<_>>());
            let answer = match found.into_iter().find(|words| words[0] == path).as_deref() {
                Some([_, status, location]) => {
                    format!("HTTP/1.1 {status} So\r\nlocation: {location}\r\n\r\ngone\n away")
                }
                Some([_, status]) => format!("HTTP/1.1 {status} So\r\ncontent-length: 4\r\n\r\ngone"),
                _ => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            };
            guest.get_mut().write_all(answer.as_bytes()).await.unwrap();
        });
        Ok(ours)
    });
    (door, asked)
}

#[tokio::test]
async fn redirects_to_the_guest_are_followed_and_others_are_a_warning() {
    let agent = Agent::default();
    let followed =
        |expected: &[&str]| (ProbeOutcome::Success, expected.iter().map(|&one| one.to_owned()).collect());
    let warned = |body: &str, expected: &str| {
        let why = format!("Probe terminated redirects, Response body: {body}");
        (ProbeOutcome::Warning(why), vec![expected.to_owned()])
    };
    let failed = |why: &str, requests: usize| {
        (ProbeOutcome::Failure(why.to_owned()), vec!["80 /a/b?c me".to_owned(); requests])
    };
    for (answers, (outcome, asked)) in [
        ("/a/b?c 302 /up?x#y", followed(&["80 /a/b?c me", "80 /up?x me"])),
        ("/a/b?c 301 up", followed(&["80 /a/b?c me", "80 /a/up me"])),
        ("/a/b?c 303 ?d\n/a/b?d 308 ../e", followed(&["80 /a/b?c me", "80 /a/b?d me", "80 /a/../e me"])),
        (
            "/a/b?c 307 http://10.0.2.2:8080/in\n/in 302 /on",
            followed(&["80 /a/b?c me", "8080 /in 10.0.2.2:8080", "8080 /on 10.0.2.2:8080"]),
        ),
        ("/a/b?c 302 //10.0.2.2", followed(&["80 /a/b?c me", "80 / 10.0.2.2:80"])),
        ("/a/b?c 302 http://guest.example/", warned("gone away", "80 /a/b?c me")),
        ("/a/b?c 302 //10.0.2.4/", warned("gone away", "80 /a/b?c me")),
        ("/a/b?c 304 /up", warned("", "80 /a/b?c me")),
        ("/a/b?c 302", warned("gone", "80 /a/b?c me")),
        ("/a/b?c 302 /a/b?c", failed("stopped after 10 redirects", 10)),
        ("/a/b?c 302 ftp://10.0.2.2/", failed("failed to parse Location header \"ftp://10.0.2.2/\"", 1)),
        ("/a/b?c 302 http://[", failed("failed to parse Location header \"http://[\"", 1)),
    ] {
        let (door, heard) = leading(answers);
        let probe = json!({"httpGet": {"port": 80, "path": "/a/b?c", "httpHeaders": [{"name": "Host", "value": "me"}]}});
        let found = probes(probe).attempt(ProbeKind::Readiness, guest(Some(&door), &agent)).await.unwrap();
        assert_eq!((found, heard.lock().unwrap().clone()), (outcome, asked), "{answers}");
    }
    // Nobody waits for the end of a body.
    let endless = [b"HTTP/1.1 302 Found\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
    let (door, _) = web(80, Some(endless));
    let get = json!({"httpGet": {"port": 80}});
    let found = probes(get).attempt(ProbeKind::Readiness, guest(Some(&door), &agent)).await.unwrap();
    let ProbeOutcome::Warning(why) = found else { panic!("{found:?}") };
    assert!(why.ends_with("xxx") && why.len() < 1024, "{}", why.len());
}

#[tokio::test]
async fn a_request_is_a_kubelets_with_the_headers_of_the_probe() {
    let agent = Agent::default();
    for (get, expected) in [
        (
            json!({"port": 80}),
            format!(
                "GET / HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\naccept: */*\r\nconnection: close\r\nhost: 10.0.2.2:80\r\n\r\n"
            ),
        ),
        (
            json!({"port": 80, "path": "up?deep=1", "httpHeaders": [
                {"name": "Host", "value": "guest.example"}, {"name": "User-Agent", "value": "me"},
                {"name": "X-Two", "value": "a"}, {"name": "x-two", "value": "b"},
            ]}),
            "GET /up?deep=1 HTTP/1.1\r\nuser-agent: me\r\naccept: */*\r\nconnection: close\r\n\
             host: guest.example\r\nx-two: a\r\nx-two: b\r\n\r\n"
                .to_owned(),
        ),
    ] {
        let (door, heard) = web(80, Some(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()));
        assert_eq!(attempted(json!({"httpGet": get}), guest(Some(&door), &agent)).await, Ok(()));
        assert_eq!(*heard.lock().unwrap(), expected);
    }
    let (door, _) = web(80, None);
    for (get, expected) in [
        (json!({"port": 80, "path": "a b"}), "`/a b` is no path of a URL: "),
        (json!({"port": 80, "path": "/\r\nx: y"}), "`/\r\nx: y` is no path of a URL: "),
        (json!({"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}), "`a b` is no header: "),
        (json!({"port": 80, "httpHeaders": [{"name": "a", "value": "b\r\nc: d"}]}), "`a` is no header: "),
    ] {
        let found = attempted(json!({"httpGet": get}), guest(Some(&door), &agent)).await.unwrap_err();
        assert!(found.starts_with(expected), "{found}");
    }
}

#[tokio::test]
async fn a_guest_that_makes_no_sense_or_never_ends_fails_in_time() {
    let agent = Agent::default();
    let long =
        [b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1 << 12)].concat();
    for answer in [b"nonsense\r\n\r\n".to_vec(), b"HTTP/1.1 200".to_vec(), Vec::new(), long] {
        let (door, _) = web(80, Some(answer));
        assert!(attempted(json!({"httpGet": {"port": 80}}), guest(Some(&door), &agent)).await.is_err());
    }
    // A body that goes on and on is not read.
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
    let (door, _) = web(80, Some(endless));
    assert_eq!(attempted(json!({"httpGet": {"port": 80}}), guest(Some(&door), &agent)).await, Ok(()));

    let (door, _) = web(80, None);
    let began = tokio::time::Instant::now();
    let found =
        attempted(json!({"httpGet": {"port": 80}, "timeoutSeconds": 2}), guest(Some(&door), &agent)).await;
    assert_eq!(found, Err("the guest has not answered within 2 s".to_owned()));
    assert!(began.elapsed().as_secs() >= 2);
}

#[tokio::test]
async fn any_certificate_will_do_for_https() {
    let agent = Agent::default();
    let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    for versions in [[&rustls::version::TLS12], [&rustls::version::TLS13]] {
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.clone_key())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let door = Door::to(Ports::default(), move |_| {
            let (ours, guest) = duplex(1 << 16);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(guest).await else { return };
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            });
            Ok(ours)
        });
        let get = |scheme: &str| json!({"httpGet": {"port": 443, "scheme": scheme}});
        assert_eq!(attempted(get("HTTPS"), guest(Some(&door), &agent)).await, Ok(()));
        assert!(attempted(get("HTTP"), guest(Some(&door), &agent)).await.is_err());
    }
}

#[tokio::test]
async fn a_command_is_run_by_the_agent_until_it_ends() {
    let probe = json!({"exec": {"command": ["cat", "/tmp/ready"]}, "timeoutSeconds": 1});
    let ended = |status: Value| {
        let mut looks = 0;
        agent(move |command| match command["execute"].as_str().unwrap() {
            "guest-exec" => {
                let arguments = json!({"path": "cat", "arg": ["/tmp/ready"], "capture-output": true});
                assert_eq!(command["arguments"], arguments);
                json!({"return": {"pid": 77}})
            }
            "guest-exec-status" => {
                assert_eq!(command["arguments"], json!({"pid": 77}));
                looks += 1;
                json!({"return": if looks < 4 { json!({"exited": false}) } else { status.clone() }})
            }
            other => panic!("{other}"),
        })
    };
    // "one\ntwo \u{1b}[31m\n", and "cat: no\n".
    let (out, error) = ("b25lCnR3byAbWzMxbQo=", "Y2F0OiBubwo=");
    let flood = "QUFB".repeat(1 << 16);
    for (status, expected) in [
        (json!({"exited": true, "exitcode": 0, "out-data": out}), Ok(())),
        (json!({"exited": true, "exitcode": 1}), Err("the command has ended with exit code 1".to_owned())),
        (
            json!({"exited": true, "exitcode": 2, "out-data": out, "err-data": error}),
            Err("the command has ended with exit code 2: one two \u{fffd}[31m cat: no".to_owned()),
        ),
        (json!({"exited": true, "signal": 9}), Err("the command has ended by signal 9".to_owned())),
        (json!({"exited": true}), Err("the command has ended in an unknown way".to_owned())),
        (
            json!({"exited": true, "exitcode": 3, "out-data": flood}),
            Err(format!("the command has ended with exit code 3: {}", "A".repeat(256))),
        ),
    ] {
        let agent = ended(status).await;
        assert_eq!(attempted(probe.clone(), guest(None, &agent)).await, expected);
    }
    let agent = ended(json!({"exited": false})).await;
    let late = Err("the guest has not answered within 1 s".to_owned());
    assert_eq!(attempted(probe.clone(), guest(None, &agent)).await, late, "what has no end is given up");
    let refusal = json!({"error": {"class": "X", "desc": "disabled"}});
    let agent = self::agent(move |_| refusal.clone()).await;
    let refused = Err("the guest agent refuses `guest-exec`: disabled".to_owned());
    assert_eq!(attempted(probe, guest(None, &agent)).await, refused);
}

#[tokio::test]
async fn an_agent_answers_or_its_machine_is_paused() {
    let ping = json!({"guestAgentPing": {}});
    let there = agent(|command| {
        assert_eq!(command["execute"], "guest-ping");
        json!({"return": {}})
    });
    let (there, missing) = (there.await, Agent::default());
    assert_eq!(attempted(ping.clone(), guest(None, &there)).await, Ok(()));
    let failed = Err("the guest agent is not connected".to_owned());
    assert_eq!(attempted(ping.clone(), guest(None, &missing)).await, failed);
    let paused = Guest { is_paused: true, ..guest(None, &missing) };
    assert_eq!(attempted(ping, paused).await, Ok(()));
    let exec = json!({"exec": {"command": ["true"]}});
    assert_eq!(attempted(exec, paused).await, failed);
}
