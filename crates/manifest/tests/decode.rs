//! What is read from a stream, and every way in which it can be refused.
#![allow(clippy::unwrap_used)]

use manifest::decode::MAX_INPUT_BYTES;
use manifest::{DecodeError, Document, decode_objects, decode_stream, encode_yaml};
use serde_json::json;

fn read(text: &str) -> Vec<Document> {
    decode_stream("test.yaml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> DecodeError {
    decode_stream("test.yaml", text).unwrap_err()
}

/// The faults of the first invalid object, as (place, message).
fn faults(text: &str) -> Vec<(String, String)> {
    let DecodeError::Invalid { objects, .. } = refused(text) else {
        panic!("not a fault of shape");
    };
    objects[0].faults.iter().map(|fault| (fault.place.clone(), fault.message.clone())).collect()
}

fn messages(text: &str) -> Vec<String> {
    faults(text).into_iter().map(|(_, message)| message).collect()
}

/// An instance whose spec is `spec`, indented by two.
fn instance(spec: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata:\n  name: tiny\nspec:\n{spec}"
    )
}

#[test]
fn several_documents_come_in_order() {
    let documents = read(
        "# a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n---\n---\n\
         apiVersion: kubevirt.io/v1alpha3\nkind: VirtualMachineInstance\nmetadata: {name: tiny}\n\
         spec: {domain: {devices: {}}}\n",
    );
    assert_eq!(documents.len(), 2);
    assert_eq!((documents[0].kind(), documents[0].name()), ("ConfigMap", "settings"));
    assert_eq!((documents[1].kind(), documents[1].name()), ("VirtualMachineInstance", "tiny"));
    let Document::VirtualMachineInstance(instance) = &documents[1] else {
        panic!("{:?}", documents[1]);
    };
    assert_eq!(instance.api_version, "kubevirt.io/v1alpha3");
}

#[test]
fn a_text_without_objects_gives_none() {
    assert_eq!(read(""), []);
    assert_eq!(read("---\n# nothing\n---\n"), []);
}

#[test]
fn lists_are_taken_apart() {
    let documents = read(
        r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}},
            {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceList", "items": [
                {"metadata": {"name": "b"}, "spec": {"domain": {"devices": {}}}}
            ]}
        ]}"#,
    );
    let found: Vec<_> = documents.iter().map(|document| (document.kind(), document.name())).collect();
    assert_eq!(found, [("Service", "a"), ("VirtualMachineInstance", "b")]);
}

#[test]
fn a_machine_of_another_group_is_another_kind() {
    let documents = read("apiVersion: example.org/v1\nkind: VirtualMachine\nmetadata: {name: x}\nspec: 5\n");
    assert_eq!(
        documents,
        [Document::Other {
            api_version: "example.org/v1".to_owned(),
            kind: "VirtualMachine".to_owned(),
            name: "x".to_owned(),
        }]
    );
}

#[test]
fn secrets_are_decoded_and_not_printed() {
    let documents = read(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockerconfigjson\n\
         metadata: {name: login, namespace: lab, labels: {a: b}}\n\
         data:\n  .dockerconfigjson: e30=\n  wrapped: |\n    aGVs\n    bG8=\n  twice: YQ==\nstringData:\n  twice: b\nimmutable: true\n",
    );
    let Document::Secret(secret) = &documents[0] else {
        panic!("{:?}", documents[0].kind());
    };
    assert_eq!((secret.name.as_str(), secret.namespace.as_deref()), ("login", Some("lab")));
    assert_eq!(secret.type_, "kubernetes.io/dockerconfigjson");
    assert_eq!(secret.data[".dockerconfigjson"], b"{}");
    assert_eq!(secret.data["wrapped"], b"hello");
    assert_eq!(secret.data["twice"], b"b");
    let printed = format!("{:?}", documents[0]);
    assert!(
        printed.contains("wrapped") && !printed.contains("hello") && !printed.contains("104"),
        "{printed}"
    );
}

#[test]
fn a_secret_without_type_is_opaque() {
    let documents = read("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n");
    let Document::Secret(secret) = &documents[0] else {
        panic!("{documents:?}");
    };
    assert_eq!((secret.type_.as_str(), secret.data.len()), ("Opaque", 0));
}

#[test]
fn a_secret_that_is_not_base64_is_refused_without_its_content() {
    let text =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'hunter2!', b: 5, c: YQ==}\nextra: 1\n";
    assert_eq!(
        messages(text),
        [".extra in body is a forbidden property", "data.b in body must be of type string: \"integer\""]
    );
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'hunter2!'}\n";
    assert_eq!(messages(text), ["data.a in body must be of type byte: \"string\""]);
    assert!(!refused(text).to_string().contains("hunter2"));
}

#[test]
fn unknown_missing_and_ill_typed_fields_are_reported_together() {
    let text = "\
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: tiny
  domain: {}
foo: 1
spec:
  runStrategy: 5
  running: sometimes
  template:
    spec:
      not-a-domain: {}
      networks: {}
      terminationGracePeriodSeconds: 1.5
      nodeSelector: {disk: 5}
  instancetype: small
";
    assert_eq!(
        messages(text),
        [
            ".foo in body is a forbidden property",
            "metadata.domain in body is a forbidden property",
            "spec.runStrategy in body must be of type string: \"integer\"",
            "spec.running in body must be of type boolean: \"string\"",
            "spec.template.spec.not-a-domain in body is a forbidden property",
            "spec.template.spec.domain in body is required",
            "spec.template.spec.networks in body must be of type array: \"object\"",
            "spec.template.spec.terminationGracePeriodSeconds in body must be of type integer: \"number\"",
            "spec.template.spec.nodeSelector.disk in body must be of type string: \"integer\"",
            "spec.instancetype in body must be of type object: \"string\"",
        ]
    );
}

#[test]
fn the_image_of_a_kernel_is_required() {
    let text = instance(
        "  domain:\n    devices: {}\n    firmware: {kernelBoot: {container: {kernelPath: /vmlinuz}}}\n",
    );
    assert_eq!(messages(&text), ["spec.domain.firmware.kernelBoot.container.image in body is required"]);
}

#[test]
fn a_machine_needs_a_spec_a_template_and_devices() {
    let table = [
        ("", "spec in body is required"),
        ("spec: {}", "spec.template in body is required"),
        ("spec: {template: {}}", "spec.template.spec in body is required"),
        ("spec: {template: {spec: {}}}", "spec.template.spec.domain in body is required"),
        ("spec: {template: {spec: {domain: {}}}}", "spec.template.spec.domain.devices in body is required"),
    ];
    for (spec, expected) in table {
        let text = format!("apiVersion: kubevirt.io/v1\nkind: VirtualMachine\n{spec}\n");
        assert_eq!(messages(&text), [expected]);
    }
}

#[test]
fn places_in_lists_are_told_beside_the_message() {
    let text = instance(
        "  domain:\n    devices:\n      disks:\n      - name: a\n      - cdrom: {readOnly: true}\n  volumes: [text]\n",
    );
    let found = faults(&text);
    let expected = [
        ("spec.domain.devices.disks[1].name", "spec.domain.devices.disks.name in body is required"),
        (
            "spec.domain.devices.disks[1].cdrom.readOnly",
            "spec.domain.devices.disks.cdrom.readOnly in body is a forbidden property",
        ),
        ("spec.volumes[0]", "spec.volumes in body must be of type object: \"string\""),
    ];
    assert_eq!(found, expected.map(|(place, message)| (place.to_owned(), message.to_owned())));
    let error = refused(&text);
    assert!(
        error.to_string().contains("is required (line 10, at `spec.domain.devices.disks[1].name`)"),
        "{error}"
    );
    assert_eq!(error.hint().unwrap(), "the field is spelled `readonly` in disks");
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let text = instance(
        "  domain:\n    cpu: {cores: -1, sockets: 4294967296}\n    devices:\n      disks:\n      - {name: a, bootOrder: -1}\n",
    );
    assert_eq!(
        messages(&text),
        [
            "spec.domain.cpu.cores in body should be greater than or equal to 0",
            "spec.domain.cpu.sockets in body should be less than or equal to 4294967295",
            "spec.domain.devices.disks.bootOrder in body should be greater than or equal to 0",
        ]
    );
}

#[test]
fn quantities_may_be_numbers_and_must_be_quantities() {
    let documents =
        read(&instance("  domain:\n    devices: {}\n    resources: {requests: {cpu: 2, memory: 1.5e9}}\n"));
    let Document::VirtualMachineInstance(found) = &documents[0] else {
        panic!("{documents:?}");
    };
    let requests = &found.spec.domain.resources.as_ref().unwrap().requests;
    assert_eq!((requests["cpu"].as_str(), requests["memory"].as_str()), ("2", "1500000000"));

    let found =
        messages(&instance("  domain:\n    devices: {}\n    memory: {guest: lots, maxGuest: true}\n"));
    assert!(found[0].starts_with("spec.domain.memory.guest in body should match '^(\\+|-)?"), "{found:?}");
    assert_eq!(
        found[1],
        "spec.domain.memory.maxGuest in body must be of type string,integer,number: \"boolean\""
    );
}

#[test]
fn types_of_kubernetes_are_checked_as_strictly() {
    let text = instance(
        "  domain: {devices: {}}\n  tolerations: [{key: a, value: 5, operand: x}]\n\
         \x20 affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{}]}}\n\
         \x20 livenessProbe: {httpGet: {port: true, path: /}, tcpSocket: {port: 70000000000}}\n\
         \x20 readinessProbe: {httpGet: {port: 8080}}\n",
    );
    assert_eq!(
        messages(&text),
        [
            "spec.tolerations.operand in body is a forbidden property",
            "spec.tolerations.value in body must be of type string: \"integer\"",
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution.topologyKey in body is required",
            "spec.livenessProbe.httpGet.port in body must be of type integer,string: \"boolean\"",
            "spec.livenessProbe.tcpSocket.port in body should be less than or equal to 2147483647",
        ]
    );
    let text = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {creationTimestamp: today}\n\
                spec: {domain: {devices: {}}}\n";
    assert_eq!(messages(text), ["metadata.creationTimestamp in body must be of type date-time: \"today\""]);
}

#[test]
fn null_means_unset() {
    let documents = read(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: a, creationTimestamp: null}\n\
         spec: {domain: {devices: {rng: null, disks: ~}}, hostname: }\n",
    );
    let Document::VirtualMachineInstance(found) = &documents[0] else {
        panic!("{documents:?}");
    };
    assert_eq!(found.spec.domain.devices, manifest::types::Devices::default());
    assert_eq!(messages(&instance("  domain:\n")), ["spec.domain in body is required"]);
}

#[test]
fn an_object_must_say_what_it_is() {
    assert_eq!(messages("kind: VirtualMachine\n"), ["apiVersion in body is required"]);
    assert_eq!(messages("apiVersion: kubevirt.io/v1\nkind: ''\n"), ["kind in body is required"]);
    assert_eq!(
        messages("apiVersion: 1\n"),
        ["apiVersion in body must be of type string: \"integer\"", "kind in body is required"]
    );
    let error = refused("- a\n- b\n");
    assert_eq!(
        error.to_string(),
        "could not read manifest `test.yaml`: document 1: the document must be of type object: \"array\" (line 1)"
    );
}

#[test]
fn an_unknown_version_is_refused_with_the_known_one() {
    let error = refused("apiVersion: kubevirt.io/v2\nkind: VirtualMachine\nmetadata: {name: tiny}\n");
    assert_eq!(
        error.to_string(),
        "could not read manifest `test.yaml`: VirtualMachine `tiny`: no matches for kind \"VirtualMachine\" in version \
         \"kubevirt.io/v2\" (line 1)"
    );
    assert_eq!(error.hint().unwrap(), "use `apiVersion: kubevirt.io/v1`");
}

#[test]
fn faults_of_all_objects_are_reported() {
    let error = refused(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: a}\nspec: {}\n---\n\
         apiVersion: v1\nkind: Service\n---\n\
         apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nspec: {template: {spec: {domain: {devices: {}}}}, x: 1}\n",
    );
    assert_eq!(
        error.to_string(),
        "could not read manifest `test.yaml`: VirtualMachineInstance `a`: spec.domain in body is required \
         (line 4); VirtualMachine in document 3: spec.x in body is a forbidden property (line 11)"
    );
}

#[test]
fn faults_of_syntax_name_source_line_and_column() {
    let error = refused("apiVersion: v1\nkind: Service\n---\na: b: c\n");
    let DecodeError::Syntax { line, column, excerpt, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*line, excerpt.as_str()), (4, "a: b: c"));
    assert!(
        error
            .to_string()
            .starts_with(&format!("could not read manifest `test.yaml`: line 4, column {column}: ")),
        "{error}"
    );
    let hint = error.hint().unwrap();
    assert_eq!(hint, format!("line 4 reads:\na: b: c\n{}^", " ".repeat(*column as usize - 1)));
}

#[test]
fn a_line_of_a_text_with_secrets_is_not_shown() {
    let error = refused("apiVersion: v1\nkind: Secret\nstringData:\n  password: hunter2: x\n");
    let DecodeError::Syntax { line, excerpt, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*line, excerpt.as_str(), error.hint()), (4, "", None));
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn a_text_that_is_too_long_is_not_parsed() {
    let text = " ".repeat(MAX_INPUT_BYTES + 1);
    assert_eq!(
        refused(&text).to_string(),
        "could not read manifest `test.yaml`: 3145729 bytes are more than the 3145728 allowed"
    );
    assert_eq!(read(&" ".repeat(MAX_INPUT_BYTES)), []);
}

#[test]
fn objects_are_read_as_they_are_written() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, spec: {nonsense: 0755}}\n---\n\
                apiVersion: kubevirt.io/v1\nkind: VirtualMachineList\nitems: [{metadata: {name: a}}]\n---\n\
                apiVersion: kubevirt.io/v9\nkind: VirtualMachine\n";
    let objects = decode_objects("x", text).unwrap();
    assert_eq!(
        objects,
        [
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nonsense": 493}}),
            json!({"metadata": {"name": "a"}, "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine"}),
            json!({"apiVersion": "kubevirt.io/v9", "kind": "VirtualMachine"}),
        ]
    );
    let error = decode_objects("x", "- 1\n---\nkind: Pod\n").unwrap_err().to_string();
    assert!(error.contains("document 1") && error.contains("Pod in document 2"), "{error}");
    assert!(matches!(decode_objects("x", "a: ["), Err(DecodeError::Syntax { .. })));
}

#[test]
fn what_is_written_as_yaml_is_read_as_the_same() {
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "yes", "b": "0755", "c": "two\nlines\n",
        "d": "~", "e": "", "f": "- x: [", "g": "\u{1b}"}, "list": [[], {}, null, 1.5, -3, true]});
    let text = encode_yaml(&value).unwrap();
    assert_eq!(decode_objects("x", &text).unwrap(), [value]);
}
