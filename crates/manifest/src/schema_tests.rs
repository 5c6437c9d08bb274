//! Tests that walk the schema itself: that the fixtures hold every field, and that any object the schema allows survives
//! being written and read again.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use crate::decode::{Document, decode_stream};
use crate::schema::{Described, Node, Presence};
use crate::types::{VirtualMachine, VirtualMachineInstance};
use crate::value::read_documents;

/// Paths of the schema that `value` does not hold.
fn missing(node: &Node, value: &Value, path: &str, found: &mut Vec<String>) {
    match (node, value) {
        (Node::Object(object), Value::Object(map)) => {
            for field in object.fields {
                let path = format!("{path}.{}", field.name);
                match map.get(field.name) {
                    Some(value) => missing(field.node, value, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Node::List(element), Value::Array(values)) => match values.first() {
            Some(value) => missing(element, value, path, found),
            None => found.push(format!("{path}[]")),
        },
        (Node::Map(element), Value::Object(map)) => match map.values().next() {
            Some(value) => missing(element, value, path, found),
            None => found.push(format!("{path}{{}}")),
        },
        _ => {}
    }
}

#[test]
fn fixtures_hold_every_field_of_the_schema() {
    let machine = include_str!("../tests/fixtures/virtual-machine-complete.yaml");
    let instance = include_str!("../tests/fixtures/virtual-machine-instance-complete.yaml");
    for (node, text) in [(VirtualMachine::NODE, machine), (VirtualMachineInstance::NODE, instance)] {
        let mut found = Vec::new();
        missing(node, &read_documents(text).unwrap()[0].value, "", &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}

/// Makes random values of a given shape. The numbers come from a small generator (xorshift), so that one `u64` of
/// proptest's stands for a whole object.
struct Sampler {
    state: u64,
    /// How many optional fields of a hundred are set.
    density: u64,
}

impl Sampler {
    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }

    fn pick(&mut self, choices: &[&str]) -> String {
        let index = self.below(choices.len() as u64);
        choices[usize::try_from(index).unwrap()].to_owned()
    }

    /// Never empty: types borrowed from Kubernetes do not tell an empty text from an unset one.
    fn text(&mut self) -> String {
        self.pick(&[
            "a",
            "yes",
            "0755",
            "null",
            "1e3",
            "tiny-1",
            "two words",
            "Grüße",
            " padded ",
            "a: b",
            "# no comment",
            "---",
            "line\nbreak",
            "tab\there",
            "quote\"'",
            "console=ttyS0 root=/dev/vda1",
            "1.5",
            "~",
            "on",
            "{}",
            "- x",
            "@x",
            "x\\y",
        ])
    }

    fn value(&mut self, node: &Node) -> Value {
        match node {
            Node::Text => json!(self.text()),
            Node::Boolean => json!(self.below(2) == 0),
            Node::Whole { minimum, maximum } => {
                let choice = [*minimum, *maximum, 0, 1, i128::from(self.below(100_000))];
                let index = usize::try_from(self.below(5)).unwrap();
                let number = choice[index];
                Value::Number(Number::from_i128(number).unwrap())
            }
            Node::Quantity => json!(self.pick(&["0", "1Gi", "500m", "1.5G", "1e3", "-2", "64Mi", "1024Mi"])),
            Node::IntOrString if self.below(2) == 0 => json!(self.below(65_536)),
            Node::IntOrString => json!(self.pick(&["http", "control"])),
            Node::Time => json!(self.pick(&["2026-01-02T03:04:05Z", "1999-12-31T23:59:59Z"])),
            Node::AnyObject => json!({"f:metadata": {"f:labels": {}}}),
            Node::List(element) => (0..=self.below(2)).map(|_| self.value(element)).collect(),
            Node::Map(element) => (0..=self.below(2))
                .map(|index| (format!("key-{index}"), self.value(element)))
                .collect::<Map<_, _>>()
                .into(),
            Node::Object(object) => object
                .fields
                .iter()
                .filter_map(|field| {
                    let wanted = field.presence == Presence::Required || self.below(100) < self.density;
                    wanted.then(|| (field.name.to_owned(), self.value(field.node)))
                })
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    fn object(&mut self, node: &Node, kind: &str) -> Value {
        let mut value = self.value(node);
        value["apiVersion"] = json!(self.pick(&["kubevirt.io/v1", "kubevirt.io/v1alpha3"]));
        value["kind"] = json!(kind);
        // Always written, like the two above.
        if value.get("metadata").is_none() {
            value["metadata"] = json!({});
        }
        value
    }
}

fn encoded(document: &Document) -> Value {
    match document {
        Document::VirtualMachine(machine) => serde_json::to_value(machine).unwrap(),
        Document::VirtualMachineInstance(instance) => serde_json::to_value(instance).unwrap(),
        other => panic!("{other:?} is no machine"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_the_schema_allows_survives_writing_and_reading(state in 1..u64::MAX, density in 0..40_u64, instance: bool) {
        let mut sampler = Sampler { state, density };
        let value = if instance {
            sampler.object(VirtualMachineInstance::NODE, "VirtualMachineInstance")
        } else {
            sampler.object(VirtualMachine::NODE, "VirtualMachine")
        };
        let first = decode_stream("json", &value.to_string()).unwrap();
        prop_assert_eq!(&encoded(&first[0]), &value);
        let yaml = serde_saphyr::to_string(&encoded(&first[0])).unwrap();
        let second = decode_stream("yaml", &yaml).unwrap();
        prop_assert_eq!(first, second);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-{}\\[\\]:,&*!|>#\"'a-c0-9 \n\t]{0,80}") {
        let _ = decode_stream("any", &text);
    }
}
