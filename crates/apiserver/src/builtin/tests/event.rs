use super::*;
use crate::builtin::event::{from_core, to_core};

#[test]
fn an_event_is_the_same_in_both_groups() {
    let core = json!({
        "metadata": {"name": "a.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"},
        "reason": "Started", "message": "Started container", "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 3,
        "type": "Normal", "eventTime": null, "reportingComponent": "", "reportingInstance": "",
    });
    let mut new = core.clone();
    from_core(&mut new);
    assert_eq!(
        new,
        json!({
            "metadata": {"name": "a.1", "namespace": "default"},
            "regarding": {"kind": "Pod", "name": "a", "namespace": "default"},
            "reason": "Started", "note": "Started container",
            "deprecatedSource": {"component": "kubelet", "host": "n"},
            "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z",
            "deprecatedLastTimestamp": "2026-01-01T00:00:00Z", "deprecatedCount": 3,
            "type": "Normal", "eventTime": null, "reportingController": "", "reportingInstance": "",
        })
    );
    to_core(&mut new);
    assert_eq!(new, core);
}

fn new_event() -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a.1", "namespace": "default"},
        "regarding": {"kind": "Pod", "name": "a", "namespace": "default"}, "reason": "Started", "action": "Starting",
        "note": "It runs", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000001Z",
        "reportingController": "example.com/c", "reportingInstance": "c-0",
    })
}

#[test]
fn an_event_of_the_new_group_must_say_who_reports_it() {
    let kinds = Kinds::new(kinds());
    create(&kinds, new_event()).unwrap();
    for field in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        let mut event = new_event();
        event.as_object_mut().unwrap().remove(field);
        let refused = create(&kinds, event).unwrap_err();
        assert_eq!(
            refused.message,
            format!("Event.events.k8s.io \"a.1\" is invalid: {field}: Required value")
        );
    }
    let mut changed = new_event();
    changed["note"] = "It does not".into();
    let refused = update(&kinds, changed, &new_event()).unwrap_err();
    assert_eq!(
        refused.message,
        "Event.events.k8s.io \"a.1\" is invalid: note: Invalid value: \"It does not\": field is immutable"
    );
    let mut counted = new_event();
    counted["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"});
    update(&kinds, counted, &new_event()).unwrap();
}

#[test]
fn an_event_belongs_to_the_namespace_of_what_it_is_about() {
    let kinds = Kinds::new(kinds());
    let mut event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"},
    });
    let stored = create(&kinds, event.clone()).unwrap();
    assert_eq!((&stored["eventTime"], &stored["source"]), (&Value::Null, &json!({})));
    event["involvedObject"]["namespace"] = "other".into();
    assert_eq!(
        create(&kinds, event).unwrap_err().message,
        "Event \"a.1\" is invalid: involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"
    );
}
