#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::json;

use super::*;
use crate::agent_report::LoadAverage;

/// An agent whose file systems are `frozen` or `thawed`, and that tells of its `load` if it can.
async fn agent(load: Option<Value>, frozen: &'static str) -> Agent {
    scripted::agent(move |request| {
        let command = request["execute"].as_str().unwrap();
        let file_system =
            json!({"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 5, "total-bytes": 9});
        let answer = match command {
            "guest-info" => {
                let can = json!({"name": "guest-get-load", "enabled": load.is_some()});
                json!({"version": "10.0", "supported_commands": [can]})
            }
            "guest-fsfreeze-status" => json!(frozen),
            "guest-get-load" => load.clone().unwrap(),
            "guest-get-fsinfo" if frozen == "thawed" => json!([file_system]),
            "guest-get-osinfo" | "guest-network-get-interfaces" => {
                return json!({"error": {"class": "GenericError", "desc": "disabled"}});
            }
            other => panic!("{other} is not to be asked for"),
        };
        json!({"return": answer})
    })
    .await
}

#[tokio::test]
async fn a_look_tells_what_the_agent_can_measure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.json");
    let read = || -> AgentReport { serde_json::from_slice(&fs::read(&path).unwrap()).unwrap() };
    let (told, heard) = watch::channel(None);
    let mut reporter = Reporter::new(path.clone());

    let without_load = agent(None, "thawed").await;
    assert!(without_load.look(&told, &mut reporter).await.unwrap(), "it is the first");
    assert!(heard.borrow().is_some());
    let report = read();
    assert_eq!((report.file_systems.len(), report.load), (1, None));
    assert_eq!((report.file_systems[0].used_bytes, report.file_systems[0].total_bytes), (5, 9));

    let with_load = agent(Some(json!({"load1m": 1.5, "load5m": 0.5, "load15m": 0.25})), "thawed").await;
    assert!(!with_load.look(&told, &mut reporter).await.unwrap());
    let load = LoadAverage { one_minute: 1.5, five_minutes: 0.5, fifteen_minutes: 0.25 };
    assert_eq!(read(), AgentReport { load: Some(load), ..report });

    // Nothing new is written, and while file systems are frozen what was told stays.
    fs::write(&path, "{}").unwrap();
    for frozen in ["thawed", "frozen"] {
        let same = agent(Some(json!({"load1m": 1.5, "load5m": 0.5, "load15m": 0.25})), frozen).await;
        same.look(&told, &mut reporter).await.unwrap();
        assert_eq!(read(), AgentReport::default(), "{frozen}");
    }
    reporter.forget();
    assert!(!path.exists());
    reporter.forget();
}
