//! What a command line is about: `vm`, `vm demo other`, `vm/demo pod/x`, `vm,vmi`.

use apiserver::metadata::is_dns1123_subdomain;
use serde_json::Value;

use super::refusal::RequestError;
use super::resources::{INSTANCES, MACHINES, PODS, Resource};
use super::{Server, query, text};
use crate::cli::ChoiceFlags;
use crate::report::Failure;

/// A kind's word, and the name of one of its objects; without a name all of them are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The word as it was typed.
    pub word: String,
    /// The object.
    pub name: Option<String>,
}

/// Reads the words of a command line as kubectl does.
///
/// # Errors
/// When they make no sense, with how they would.
pub fn read(words: &[String]) -> Result<Vec<Target>, String> {
    if words.iter().any(|word| word.contains('/')) {
        return words.iter().map(|word| pair(word)).collect();
    }
    let Some((kinds, names)) = words.split_first() else {
        return Err("no resource is named; name one as in `vm` or `vm/NAME`".to_owned());
    };
    let kinds: Vec<_> = kinds.split(',').collect();
    if let Some(bad) = names.iter().find(|name| !is_name(name)) {
        return Err(format!("`{bad}` is no name of an object"));
    }
    if kinds.iter().any(|kind| kind.is_empty()) {
        return Err(format!("`{}` has an empty resource", words[0]));
    }
    let mut targets = Vec::new();
    for kind in kinds {
        let target = |name: Option<&String>| Target { word: kind.to_owned(), name: name.cloned() };
        match names {
            [] => targets.push(target(None)),
            names => targets.extend(names.iter().map(|name| target(Some(name)))),
        }
    }
    Ok(targets)
}

/// Refuses names beside what else chooses objects.
///
/// # Errors
/// How it would make sense.
pub fn check_names(targets: &[Target], choice: &ChoiceFlags) -> Result<(), &'static str> {
    match targets.iter().any(|target| target.name.is_some()) {
        true if choice.selector.is_some() => Err("a name and a selector (-l) cannot both choose the objects"),
        true if choice.all_namespaces => {
            Err("an object of a name is in one namespace: use -n in place of -A")
        }
        _ => Ok(()),
    }
}

/// Refuses a choice that is none: each target has a name, or none has and a selector or `--all` chooses.
///
/// # Errors
/// How it would make sense.
pub fn check_choice(targets: &[Target], all: bool, choice: &ChoiceFlags) -> Result<(), &'static str> {
    let chooses = all || choice.selector.is_some();
    match targets.iter().any(|target| target.name.is_none() != chooses) {
        false => check_names(targets, choice),
        true if chooses => Err("names are not given together with --all or a selector (-l)"),
        true => Err("name the objects, as in `vm NAME`, or choose them with a selector (-l) or --all"),
    }
}

/// An object of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace, if it is in one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Object {
    /// The object in an error: "VirtualMachine `default/demo`".
    pub fn described(&self) -> String {
        self.resource.object(self.namespace.as_deref(), &self.name)
    }
}

impl Server {
    /// The objects that are meant: those named, else all that are chosen.
    ///
    /// # Errors
    /// When a resource does not exist or cannot be listed.
    pub async fn objects(&self, targets: Vec<Target>, choice: &ChoiceFlags) -> Result<Vec<Object>, Failure> {
        let mut objects = Vec::new();
        for Target { word, name } in targets {
            let resource = self.resource(&word).await?;
            match name {
                Some(name) => {
                    let namespace = self.namespace_of(&resource).map(str::to_owned);
                    objects.push(Object { resource, namespace, name });
                }
                None => objects.extend(self.chosen(&resource, choice).await?),
            }
        }
        Ok(objects)
    }

    /// The objects of a resource that are chosen.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn chosen(&self, resource: &Resource, choice: &ChoiceFlags) -> Result<Vec<Object>, Failure> {
        let selector = choice.selector.as_deref().map(|selector| ("labelSelector", selector));
        let path = resource.path(self.namespace_for(resource, choice), None);
        let items = self.list(&format!("{path}{}", query(selector))).await;
        let items = items.map_err(|error| error.failure(format!("cannot list {}", resource.plural), None))?;
        let object = |item: &Value| Object {
            resource: resource.clone(),
            namespace: item["metadata"]["namespace"].as_str().map(str::to_owned),
            name: text(item, "/metadata/name").to_owned(),
        };
        Ok(items.iter().map(object).collect())
    }

    /// The Pods of a namespace with these labels.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Value>, RequestError> {
        let path = PODS.path(Some(namespace), None);
        self.list(&format!("{path}{}", query([("labelSelector", labels)]))).await
    }
}

fn pair(word: &str) -> Result<Target, String> {
    match word.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && is_name(name) => {
            Ok(Target { word: kind.to_owned(), name: Some(name.to_owned()) })
        }
        _ => Err(format!("`{word}` is not of the form KIND/NAME")),
    }
}

/// Whether a name can stand in a path (`IsValidPathSegmentName` of apimachinery).
fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

/// Which of a machine's two kinds a name is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineKind {
    /// `VirtualMachine`.
    Machine,
    /// `VirtualMachineInstance`.
    Instance,
}

/// The kind that a word means, where it is one of a machine's.
fn kind_of(word: &str) -> Option<MachineKind> {
    match super::resources::well_known(word)? {
        resource if resource == MACHINES => Some(MachineKind::Machine),
        resource if resource == INSTANCES => Some(MachineKind::Instance),
        _ => None,
    }
}

/// Names of machines as virtctl and kubectl users write them: `demo`, `vm demo`, `vm/demo`, `vmi/demo`.
///
/// # Errors
/// When a word is neither.
pub fn machines(words: &[String]) -> Result<Vec<(Option<MachineKind>, String)>, String> {
    let (leading, names) = match words {
        [first, rest @ ..] if !rest.is_empty() && kind_of(first).is_some() => (kind_of(first), rest),
        all => (None, all),
    };
    let mut found = Vec::new();
    for word in names {
        found.push(match word.split_once('/') {
            Some((kind, name)) if kind_of(kind).is_some() && is_name(name) => {
                (kind_of(kind), name.to_owned())
            }
            None if is_name(word) => (leading, word.clone()),
            _ => return Err(format!("`{word}` is not of the form NAME, vm/NAME or vmi/NAME")),
        });
    }
    Ok(found)
}

/// A guest that is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// By which of its two objects; by the instance, where nothing is said.
    pub kind: MachineKind,
    /// Their name.
    pub name: String,
    /// Their namespace, where it is named.
    pub namespace: Option<String>,
}

impl MachineKind {
    /// Its short name, `vm` or `vmi`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Machine => "vm",
            Self::Instance => "vmi",
        }
    }

    /// Its resource.
    pub fn resource(self) -> &'static Resource {
        match self {
            Self::Machine => &MACHINES,
            Self::Instance => &INSTANCES,
        }
    }
}

/// Reads a guest as virtctl has it: `vm/demo`, `vmi/demo`, `vm/demo/namespace`; also `demo`.
///
/// Names are those of Kubernetes (RFC 1123): they become parts of other programs' command lines.
///
/// # Errors
/// When it is none of them.
pub fn guest(word: &str) -> Result<Guest, String> {
    let parts: Vec<_> = word.split('/').collect();
    let (kind, name, namespace) = match parts[..] {
        [name] => (Some(MachineKind::Instance), name, None),
        [kind, name] => (kind_of(kind), name, None),
        [kind, name, namespace] => (kind_of(kind), name, Some(namespace)),
        _ => (None, "", None),
    };
    let is_wrong = |name: &str| !is_dns1123_subdomain(name).is_empty();
    match kind {
        Some(kind) if !is_wrong(name) && !namespace.is_some_and(is_wrong) => {
            Ok(Guest { kind, name: name.to_owned(), namespace: namespace.map(str::to_owned) })
        }
        _ => Err(format!("`{word}` is not of the form NAME, vm/NAME[/NAMESPACE] or vmi/NAME[/NAMESPACE]")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn targets_are_kubectls() {
        let target = |word: &str, name: &str| Target {
            word: word.to_owned(),
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        };
        for (line, expected) in [
            ("vm", vec![target("vm", "")]),
            ("vm a b", vec![target("vm", "a"), target("vm", "b")]),
            ("vm,vmi", vec![target("vm", ""), target("vmi", "")]),
            ("vm,vmi a", vec![target("vm", "a"), target("vmi", "a")]),
            ("vm/a pod/b", vec![target("vm", "a"), target("pod", "b")]),
        ] {
            assert_eq!(read(&words(line)).unwrap(), expected, "{line}");
        }
        for (line, message) in [
            ("", "no resource is named; name one as in `vm` or `vm/NAME`"),
            ("vm a/b/c", "`vm` is not of the form KIND/NAME"),
            ("vm/", "`vm/` is not of the form KIND/NAME"),
            ("/a", "`/a` is not of the form KIND/NAME"),
            ("vm/a/b", "`vm/a/b` is not of the form KIND/NAME"),
            ("vm ..", "`..` is no name of an object"),
            ("vm,", "`vm,` has an empty resource"),
        ] {
            assert_eq!(read(&words(line)).unwrap_err(), message, "{line}");
        }
    }

    #[test]
    fn machines_are_named_as_virtctl_and_kubectl_do() {
        use MachineKind::{Instance, Machine};
        for (line, expected) in [
            ("a", vec![(None, "a")]),
            ("a b", vec![(None, "a"), (None, "b")]),
            ("vm a b", vec![(Some(Machine), "a"), (Some(Machine), "b")]),
            ("vmi a", vec![(Some(Instance), "a")]),
            ("vm/a VMI/b", vec![(Some(Machine), "a"), (Some(Instance), "b")]),
            // A machine may have any name.
            ("vm", vec![(None, "vm")]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(kind, name): (_, &str)| (kind, name.to_owned())).collect();
            assert_eq!(machines(&words(line)).unwrap(), expected, "{line}");
        }
        for line in ["pod/a", "vm/", "a/b/c", "vm/.."] {
            let message = machines(&words(line)).unwrap_err();
            assert_eq!(message, format!("`{line}` is not of the form NAME, vm/NAME or vmi/NAME"));
        }
    }

    #[test]
    fn a_guest_is_named_as_virtctl_does() {
        use MachineKind::{Instance, Machine};
        for (word, kind, name, namespace) in [
            ("a", Instance, "a", None),
            ("vm/a.b", Machine, "a.b", None),
            ("VMs/a/n", Machine, "a", Some("n")),
            ("virtualmachineinstance/a", Instance, "a", None),
        ] {
            let expected = Guest { kind, name: name.to_owned(), namespace: namespace.map(str::to_owned) };
            assert_eq!(guest(word).unwrap(), expected, "{word}");
        }
        for word in
            ["", "pod/a", "vm/", "vm/a/", "vm/a/b/c", "a b", "-a", "vm/A", "vm/a%h", "vm/a@b", "vm/$(a)"]
        {
            assert!(guest(word).unwrap_err().starts_with(&format!("`{word}` is not of the form")), "{word}");
        }
    }
}
