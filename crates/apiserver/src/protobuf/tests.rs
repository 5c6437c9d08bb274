#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::table::{Plurality, Shape, Table};
use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter_map(|letter| letter.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A varint.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field with a varint.
fn int(field: u64, value: u64) -> Vec<u8> {
    [number(field << 3), number(value)].concat()
}

/// A field with bytes.
fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [number(field << 3 | 2), number(value.len() as u64), value.to_vec()].concat()
}

/// The body of an object whose message is `raw`.
fn body(api_version: &str, kind: &str, raw: impl AsRef<[u8]>) -> Vec<u8> {
    let meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [PREFIX.to_vec(), bytes(1, meta), bytes(2, raw), bytes(3, ""), bytes(4, "")].concat()
}

/// The object of a body without `apiVersion` and `kind`, which are checked.
fn object(api_version: &str, kind: &str, raw: impl AsRef<[u8]>) -> Value {
    let mut value = decode(&body(api_version, kind, raw), "", "").unwrap();
    let object = value.as_object_mut().unwrap();
    let heads: Vec<_> = object.keys().take(2).cloned().collect();
    assert_eq!(heads, ["apiVersion", "kind"]);
    assert_eq!(object.remove("apiVersion").unwrap(), api_version);
    assert_eq!(object.remove("kind").unwrap(), kind);
    value
}

/// The error of a ConfigMap.
fn config_map_error(raw: impl AsRef<[u8]>) -> String {
    let body = body("v1", "ConfigMap", raw);
    let error = decode(&body, "", "").unwrap_err().to_api_error("ConfigMap", &body);
    assert_eq!((error.code, error.reason), (400, "BadRequest"));
    let message =
        error.message.strip_prefix("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: ");
    message.unwrap_or_else(|| panic!("{}", error.message)).to_owned()
}

/// What kubectl 1.33 sends, and what it means.
#[test]
fn bodies_of_kubectl() {
    let cases = [
        (
            // create configmap v2 --from-literal=a=b --from-literal=e=
            "6b3873000a0f0a0276311209436f6e6669674d617012230a120a02763212001a0022002a0032003800420012060a016112016212050a\
             016512001a002200",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "v2"}, "data": {"a": "b", "e": ""}}),
        ),
        (
            // create secret generic s2 --from-literal=k=v
            "6b3873000a0c0a0276311206536563726574121e0a120a02733212001a0022002a0032003800420012060a016b1201761a001a002200",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s2"}, "data": {"k": "dg=="}}),
        ),
        (
            // create service nodeport np2 --tcp=80:http
            "6b3873000a0d0a027631120753657276696365126b0a1f0a036e703212001a0022002a003200380042005a0a0a0361707012036e7032\
             12440a1e0a0738302d6874747012035443501850220a080110001a04687474702800120a0a0361707012036e70321a0022084e6f6465\
             506f72743a00420052005a00600068001a020a001a002200",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "np2", "labels": {"app": "np2"}},
                "spec": {
                    "ports": [{"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
                    "selector": {"app": "np2"}, "type": "NodePort",
                },
                "status": {"loadBalancer": {}},
            }),
        ),
        (
            // create deployment w2 --image=nginx --replicas=0
            "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412a7010a1d0a02773212001a0022002a003200380042005a090a03\
             6170701202773212780800120b0a090a03617070120277321a5f0a1b0a0012001a0022002a003200380042005a090a03617070120277\
             32124012220a056e67696e7812056e67696e782a0042006a007200800100880100900100a201001a00320042004a0052005800600068\
             008201008a01009a0100c2010022020a00280038001a0c0800100018002000280038001a002200",
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w2", "labels": {"app": "w2"}},
                "spec": {
                    "replicas": 0, "selector": {"matchLabels": {"app": "w2"}},
                    "template": {
                        "metadata": {"labels": {"app": "w2"}},
                        "spec": {"containers": [{"name": "nginx", "image": "nginx", "resources": {}}]},
                    },
                    "strategy": {},
                },
                "status": {},
            }),
        ),
        (
            // create priorityclass pz --value=0 --description=d
            "6b3873000a250a147363686564756c696e672e6b38732e696f2f7631120d5072696f72697479436c61737312310a120a02707a12001a\
             0022002a00320038004200100018002201642a14507265656d70744c6f7765725072696f726974791a002200",
            json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "pz"}, "value": 0,
                "description": "d", "preemptionPolicy": "PreemptLowerPriority",
            }),
        ),
        (
            // create poddisruptionbudget bz --selector=app=web --max-unavailable=50%
            "6b3873000a200a09706f6c6963792f76311213506f6444697372757074696f6e427564676574123b0a120a02627a12001a0022002a00\
             320038004200121912 0c0a0a0a0361707012037765621a09080110001a033530251a0a080018002000280030001a002200",
            json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "bz"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "maxUnavailable": "50%"},
                "status": {
                    "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                },
            }),
        ),
        (
            // create quota qq --hard=cpu=1
            "6b3873000a130a027631120d5265736f7572636551756f746112240a120a02717112001a0022002a00320038004200120c0a0a0a0363\
             707512030a01311a001a002200",
            json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "qq"}, "spec": {"hard": {"cpu": "1"}},
                "status": {},
            }),
        ),
        (
            // create token robot --duration=10m
            "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e52657175657374121d0a100a001200\
             1a0022002a00320038004200120320d8041a040a0012001a002200",
            json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                "spec": {"expirationSeconds": 600}, "status": {"token": ""},
            }),
        ),
        (
            // auth can-i get pods
            "6b3873000a320a17617574686f72697a6174696f6e2e6b38732e696f2f7631121753656c665375626a65637441636365737352657669\
             657712360a100a0012001a0022002a0032003800420012180a160a016112036765741a0022002a04706f647332003a001a0808001200\
             1a0020001a002200",
            json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
                "spec": {"resourceAttributes": {"namespace": "a", "verb": "get", "resource": "pods"}},
                "status": {"allowed": false},
            }),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(decode(&hex(text), "", "").unwrap(), expected);
    }
}

#[test]
fn the_table_is_whole() {
    let table = Table::parse(include_str!("messages.txt")).unwrap();
    for (api_version, kind) in table.kinds() {
        let message = table.kind(api_version, kind).unwrap();
        assert!(!message.fields().is_empty(), "{kind}");
        for field in message.fields() {
            assert!(message.field(field_number(message, field.name)).is_some());
        }
    }
    // What is inline is a message: nothing else has fields.
    for number in 0.. {
        let Some(message) = table.message(number) else { break };
        for field in message.fields() {
            assert_eq!(field.name == "-", field.plurality == Plurality::Inline);
            assert!(field.name != "-" || matches!(field.shape, Shape::Message(_)));
        }
    }
    for (text, message) in [
        ("kind v1 Pod core.Pod", "no message core.Pod"),
        ("core.Pod\n1 spec core.PodSpec", "no message core.PodSpec"),
        ("1 name string", "1 name string"),
        ("core.Pod\nx name string", "x name string: invalid digit found in string"),
        ("core.Pod\n1 name string and more", "1 name string and more"),
    ] {
        assert_eq!(Table::parse(text).unwrap_err(), message);
    }
}

fn field_number(message: &super::table::Message, name: &str) -> u32 {
    (1..1000).find(|number| message.field(*number).is_some_and(|field| field.name == name)).unwrap()
}

/// Every kind that is served with a body has a message.
#[test]
fn every_built_in_kind_is_known() {
    for kind in crate::builtin::kinds() {
        let own = kind.versions.iter().map(|version| match kind.group.as_str() {
            "" => (version.name.clone(), kind.names.kind.clone()),
            group => (format!("{group}/{}", version.name), kind.names.kind.clone()),
        });
        let of_subresources = kind.subresources.iter().map(|subresource| {
            let api_version = match subresource.group {
                "" => "v1".to_owned(),
                group => format!("{group}/{}", subresource.version),
            };
            (api_version, subresource.kind.to_owned())
        });
        for (api_version, name) in own.chain(of_subresources) {
            // Nobody can create one.
            let is_known = name == "CustomResourceDefinition" || TABLE.kind(&api_version, &name).is_some();
            assert!(is_known, "{api_version} {name}");
        }
    }
}

#[test]
fn values_become_what_json_has() {
    let time = |seconds: i64, nanos: u64| [int(1, seconds.cast_unsigned()), int(2, nanos)].concat();
    let metadata = [
        bytes(1, "x"),
        int(7, 0),
        bytes(8, ""),
        bytes(9, time(-1, 500)),
        int(10, 0),
        bytes(11, [bytes(1, "k"), bytes(2, "v")].concat()),
        bytes(11, bytes(1, "empty")),
        bytes(13, [bytes(1, "Pod"), bytes(3, "p"), int(6, 0)].concat()),
        bytes(17, bytes(7, bytes(1, br#"{"f:data":{}}"#))),
    ]
    .concat();
    assert_eq!(
        object("v1", "ConfigMap", [bytes(1, metadata), bytes(3, bytes(1, "b")), int(4, 0)].concat()),
        json!({
            "metadata": {
                "name": "x", "deletionTimestamp": "1969-12-31T23:59:59Z", "deletionGracePeriodSeconds": 0,
                "labels": {"k": "v", "empty": ""},
                "ownerReferences": [{"kind": "Pod", "name": "p", "controller": false}],
                "managedFields": [{"fieldsV1": {"f:data": {}}}],
            },
            "binaryData": {"b": ""}, "immutable": false,
        })
    );
    // Microseconds, and numbers below zero in ten bytes.
    assert_eq!(
        object(
            "coordination.k8s.io/v1",
            "Lease",
            bytes(2, [int(2, u64::MAX), bytes(3, time(0, 5_000))].concat())
        ),
        json!({"spec": {"leaseDurationSeconds": -1, "acquireTime": "1970-01-01T00:00:00.000005Z"}})
    );
    // What is optional and empty is there: `emptyDir: {}`; and what lies in its parent does.
    let volume = [bytes(1, "v"), bytes(2, bytes(2, ""))].concat();
    assert_eq!(
        object("v1", "Pod", bytes(2, [bytes(1, volume), bytes(14, "")].concat())),
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {}}})
    );
    // Lists of numbers, one by one and packed.
    for groups in [[int(4, 1), int(4, 300)].concat(), bytes(4, [number(1), number(300)].concat())] {
        assert_eq!(
            object("v1", "Pod", bytes(2, bytes(14, groups))),
            json!({"spec": {"securityContext": {"supplementalGroups": [1, 300]}}})
        );
    }
    // Ports that are numbers; 0 is as good as none where Go cannot tell them apart.
    let port = |target: Vec<u8>| bytes(2, bytes(1, [int(3, 80), bytes(4, target)].concat()));
    assert_eq!(
        object("v1", "Service", port([int(1, 0), int(2, 8080)].concat())),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}})
    );
    assert_eq!(
        object("v1", "Service", port([int(1, 0), int(2, 0)].concat())),
        json!({"spec": {"ports": [{"port": 80}]}})
    );
    // Lists in maps.
    let extra = [bytes(1, "scopes"), bytes(2, [bytes(1, "a"), bytes(1, "b")].concat())].concat();
    assert_eq!(
        object("authorization.k8s.io/v1", "SubjectAccessReview", bytes(2, bytes(5, extra))),
        json!({"spec": {"extra": {"scopes": ["a", "b"]}}})
    );
    // Options are of any version.
    assert_eq!(
        object("apps/v1", "DeleteOptions", [int(1, 0), bytes(4, "Orphan"), bytes(5, "All")].concat()),
        json!({"gracePeriodSeconds": 0, "propagationPolicy": "Orphan", "dryRun": ["All"]})
    );
}

#[test]
fn later_pieces_add_to_earlier_ones() {
    let raw = [
        bytes(1, [bytes(1, "a"), bytes(3, "n")].concat()),
        int(4, 1),
        bytes(1, [bytes(1, "b"), bytes(3, "")].concat()),
        bytes(2, [bytes(1, "k"), bytes(2, "1")].concat()),
        bytes(2, [bytes(1, "k"), bytes(2, "2")].concat()),
    ]
    .concat();
    assert_eq!(
        object("v1", "ConfigMap", raw),
        json!({"metadata": {"name": "b"}, "immutable": true, "data": {"k": "2"}})
    );
}

#[test]
fn unknown_fields_are_skipped() {
    let group =
        [number(99 << 3 | 3), number(98 << 3 | 3), int(1, 1), number(98 << 3 | 4), number(99 << 3 | 4)];
    let raw = [
        int(99, 1),
        bytes(98, "x"),
        [number(97 << 3 | 1), vec![0; 8]].concat(),
        [number(96 << 3 | 5), vec![0; 4]].concat(),
        group.concat(),
        int(4, 1),
    ]
    .concat();
    assert_eq!(object("v1", "ConfigMap", raw), json!({"immutable": true}));
}

#[test]
fn text_that_is_not_utf8_is_replaced() {
    assert_eq!(
        object("v1", "ConfigMap", bytes(1, bytes(1, [b'a', 0xff]))),
        json!({"metadata": {"name": "a\u{fffd}"}})
    );
}

#[test]
fn the_request_says_what_the_body_does_not() {
    let raw = bytes(1, bytes(1, "x"));
    let body = [PREFIX.to_vec(), bytes(2, raw)].concat();
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    assert_eq!(decode(&body, "v1", "ConfigMap").unwrap(), expected);
}

#[test]
fn malformed_messages_are_refused() {
    for (raw, message) in [
        (vec![0x0a], "unexpected EOF"),
        (vec![0x0a, 5, 1], "unexpected EOF"),
        (vec![0x80], "unexpected EOF"),
        (vec![0x09, 1, 2], "unexpected EOF"),
        (vec![0x0b, 0x10], "unexpected EOF"),
        (vec![0xff; 10], "proto: integer overflow"),
        ([vec![0x0a], number(u64::MAX)].concat(), "proto: negative length found during unmarshaling"),
        (vec![0x0c], "proto: unexpected end of group"),
        (vec![0x0e], "proto: illegal wireType 6"),
        (vec![0x02], "proto: illegal tag 0 (wire type 2)"),
        (vec![0x08, 1], "proto: wrong wireType = 0 for field Metadata"),
        (bytes(4, "x"), "proto: wrong wireType = 2 for field Immutable"),
        (bytes(2, int(1, 1)), "proto: wrong wireType = 0 for field Data"),
        (bytes(1, bytes(17, bytes(7, bytes(1, "{")))), "fieldsV1: "),
        (bytes(1, bytes(9, int(1, u64::MAX >> 1))), "deletionTimestamp: "),
    ] {
        let found = config_map_error(&raw);
        assert!(found.starts_with(message), "{raw:x?}: {found}");
    }
}

#[test]
fn other_bodies_are_refused_as_kubernetes_words_it() {
    let known = "the object provided is unrecognized (must be of type ConfigMap): ";
    let no_prefix = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
    for (body, message) in [
        (b"".to_vec(), format!("{known}empty data (<empty>)")),
        (b"{\"kind\":1}".to_vec(), format!("{known}{no_prefix} ({{\"kind\":1}})")),
        (vec![0xab; 40], format!("{known}{no_prefix} ({} ...)", "ab".repeat(30))),
        (PREFIX.to_vec(), format!("{known}empty body (6b387300)")),
        ([PREFIX, &[0x0a]].concat(), format!("{known}unexpected EOF (6b3873000a)")),
        ([PREFIX, &[0x10, 1]].concat(), format!("{known}proto: wrong wireType = 0 for field Raw (6b3873001001)")),
        (
            body("example.org/v1", "Thing", ""),
            "Thing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Thing\" is registered for version \
             \"example.org/v1\""
                .to_owned(),
        ),
    ] {
        let error = decode(&body, "v1", "ConfigMap").unwrap_err().to_api_error("ConfigMap", &body);
        assert_eq!((error.code, error.reason, error.message), (400, "BadRequest", message));
    }
}

#[test]
fn the_number_of_values_is_bounded() {
    let list = |items: usize| bytes(1, bytes(14, "").repeat(items));
    assert!(decode(&body("v1", "ConfigMap", list(200_000)), "", "").is_ok());
    assert_eq!(config_map_error(list(300_000)), "the object has too many values or is too deep");
}

/// Bytes that look like messages more often than chance would have it.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (1..20_u64, any::<u64>()).prop_map(|(field, value)| int(field, value)),
        (1..20_u64, "[a-z]{0,4}").prop_map(|(field, value)| bytes(field, value)),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        (1..20_u64, prop::collection::vec(inner, 0..6))
            .prop_map(|(field, parts)| bytes(field, parts.concat()))
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(junk in prop::collection::vec(any::<u8>(), 0..200), raw in wire()) {
        let mut kinds: Vec<_> = TABLE.kinds().collect();
        kinds.sort_unstable();
        let _ = decode(&junk, "v1", "Pod");
        let _ = decode(&[PREFIX, &junk].concat(), "v1", "Pod");
        for (api_version, kind) in kinds {
            for raw in [&junk, &raw] {
                let body = body(api_version, kind, raw);
                match decode(&body, "", "") {
                    Ok(value) => prop_assert!(crate::decode::json(value.to_string().as_bytes()).is_ok()),
                    Err(error) => prop_assert_eq!(error.to_api_error(kind, &body).code, 400),
                }
            }
        }
    }

    #[test]
    fn text_comes_back(name in "\\PC{1,20}", entries in prop::collection::btree_map("[a-z]{1,5}", "\\PC{0,20}", 0..5)) {
        let mut raw = bytes(1, bytes(1, &name));
        for (key, value) in &entries {
            raw.extend(bytes(2, [bytes(1, key), bytes(2, value)].concat()));
        }
        let value = decode(&body("v1", "ConfigMap", &raw), "", "").unwrap();
        prop_assert_eq!(&value["metadata"]["name"], &name);
        let data = value.get("data").cloned().unwrap_or(json!({}));
        prop_assert_eq!(data, json!(entries));
        // A body that was cut off is refused, or says less.
        let whole = body("v1", "ConfigMap", &raw);
        for end in 0..whole.len() {
            if let Ok(cut) = decode(&whole[..end], "v1", "ConfigMap") {
                prop_assert!(cut.to_string().len() <= value.to_string().len());
            }
        }
    }
}
