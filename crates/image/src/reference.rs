//! Image references: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`, read as Docker and Kubernetes read them.
//!
//! The grammar is that of the Distribution project's `reference` package. A reference without a registry is
//! one of Docker Hub's (`alpine` is `docker.io/library/alpine:latest`), but [`Reference::was_short_name`]
//! remembers that the registry was not spelled out, because registries.conf(5) may say that short names come
//! from elsewhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// The registry that a reference without one belongs to.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a reference that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest name (registry and repository together) that the grammar allows.
const MAXIMUM_NAME_LENGTH: usize = 255;
/// The longest tag that the grammar allows.
const MAXIMUM_TAG_LENGTH: usize = 128;

/// A reference to an image in a registry.
///
/// [`fmt::Display`] writes the canonical form with registry and tag or digest spelled out; two references to
/// the same thing are equal, however short the user wrote them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    short_name: Option<Box<str>>,
    tag_was_implied: bool,
}

/// Why a text is not a [`Reference`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("an image reference is empty")]
    Empty,
    /// The text starts with `https://` or the like.
    #[error("image reference `{text}` is a URL")]
    Url {
        /// The text as given.
        text: String,
        /// What it would be without the scheme.
        without_scheme: String,
    },
    /// A component of the repository has capitals, which the grammar does not know.
    #[error("image reference `{text}` has capital letters in its repository `{repository}`")]
    Uppercase {
        /// The text as given.
        text: String,
        /// The offending part.
        repository: String,
    },
    /// The registry's host name or port is malformed.
    #[error("image reference `{text}` has a malformed registry `{registry}`")]
    Registry {
        /// The text as given.
        text: String,
        /// The offending part.
        registry: String,
    },
    /// A component of the repository breaks the grammar.
    #[error("image reference `{text}` has a malformed repository component `{component}`")]
    Component {
        /// The text as given.
        text: String,
        /// The offending part.
        component: String,
    },
    /// The tag breaks the grammar.
    #[error("image reference `{text}` has a malformed tag `{tag}`")]
    Tag {
        /// The text as given.
        text: String,
        /// The offending part.
        tag: String,
    },
    /// The digest after `@` is malformed.
    #[error("image reference `{text}` has a malformed digest")]
    Digest {
        /// The text as given.
        text: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
    /// Registry and repository are longer than 255 characters together.
    #[error("image reference `{text}` is longer than {MAXIMUM_NAME_LENGTH} characters without its tag")]
    TooLong {
        /// The text as given.
        text: String,
    },
    /// A bare image id, which only a local Docker daemon could resolve.
    #[error("image reference `{text}` is 64 hexadecimal digits, which is an image id and no name")]
    ImageId {
        /// The text as given.
        text: String,
    },
}

impl ReferenceError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Empty => {
                Some("name an image, for instance `registry.example.com/team/image:tag`".to_owned())
            }
            Self::Url { without_scheme, .. } => Some(format!("leave the scheme out: `{without_scheme}`")),
            Self::Uppercase { repository, .. } => {
                Some(format!("repositories are lower case: `{}`", repository.to_lowercase()))
            }
            Self::Registry { .. } => Some("a registry is HOST or HOST:PORT".to_owned()),
            Self::Component { .. } => Some(
                "repository components are lower-case letters and digits, separated by \
                 single `.`, `_`, `__` or `-`"
                    .to_owned(),
            ),
            Self::Tag { .. } => Some(format!(
                "tags are at most {MAXIMUM_TAG_LENGTH} letters, digits, `_`, `.` or `-`, \
                 not starting with `.` or `-`"
            )),
            Self::Digest { .. } => Some("a digest is `sha256:` and 64 hexadecimal digits".to_owned()),
            Self::TooLong { .. } => Some("give the repository a shorter name".to_owned()),
            Self::ImageId { text } => Some(format!("to name content by digest write `NAME@sha256:{text}`")),
        }
    }
}

impl Reference {
    /// The registry as it was written or implied: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository inside the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one; `latest` is implied where there is neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest after `@`, if there is one. It wins over the tag.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether the text named no registry, so that `docker.io` was implied.
    pub fn was_short_name(&self) -> bool {
        self.short_name.is_some()
    }

    /// Whether the text had neither tag nor digest, so that `latest` was implied.
    pub const fn tag_was_implied(&self) -> bool {
        self.tag_was_implied
    }

    /// `REGISTRY/REPOSITORY`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The repository exactly as the user wrote it, where no registry was named: `alpine`, `team/image`.
    pub fn short_name(&self) -> Option<&str> {
        self.short_name.as_deref()
    }

    /// What stands in the URL of a manifest request: the digest if there is one, else the tag.
    pub fn manifest_selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The same image under a digest, without its tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), tag_was_implied: false, ..self.clone() }
    }
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        (&self.registry, &self.repository, &self.tag, &self.digest)
            == (&other.registry, &other.repository, &other.tag, &other.digest)
    }
}

impl Eq for Reference {}

impl std::hash::Hash for Reference {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.registry, &self.repository, &self.tag, &self.digest).hash(state);
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some((_, without_scheme)) = text.split_once("://") {
            return Err(ReferenceError::Url {
                text: text.to_owned(),
                without_scheme: without_scheme.to_owned(),
            });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse::<Digest>()
                    .map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') && !tag.contains(']') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() });
        }
        if name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::ImageId { text: text.to_owned() });
        }

        let (registry, path) = split_registry(name);
        if let Some(registry) = registry
            && !is_registry(registry)
        {
            return Err(ReferenceError::Registry { text: text.to_owned(), registry: registry.to_owned() });
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase { text: text.to_owned(), repository: path.to_owned() });
        }
        if let Some(component) = path.split('/').find(|component| !is_component(component)) {
            return Err(ReferenceError::Component { text: text.to_owned(), component: component.to_owned() });
        }
        if name.len() > MAXIMUM_NAME_LENGTH {
            return Err(ReferenceError::TooLong { text: text.to_owned() });
        }

        let short_name = registry.is_none().then(|| path.into());
        // `index.docker.io` is the name by which Docker Hub went first; Docker still reads it as `docker.io`.
        let registry = match registry {
            None | Some("index.docker.io") => DEFAULT_REGISTRY,
            Some(registry) => registry,
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let tag_was_implied = tag.is_none() && digest.is_none();
        let tag = if tag_was_implied { Some(DEFAULT_TAG) } else { tag };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
            short_name,
            tag_was_implied,
        })
    }
}

/// Splits a registry off: the first component is one if it could not be a repository's.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, path))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(first), path)
        }
        _ => (None, name),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = if let Some(literal) = registry.strip_prefix('[') {
        let Some((address, rest)) = literal.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest {
            "" => return true,
            _ => match rest.strip_prefix(':') {
                Some(port) => ("", Some(port)),
                None => return false,
            },
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) if !host.is_empty() => (host, Some(port)),
            Some(_) => return false,
            None => (registry, None),
        }
    };
    let host_is_fine = host.is_empty()
        || host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
    let port_is_fine = port.is_none_or(|port| {
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|n| n > 0)
    });
    host_is_fine && port_is_fine
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= MAXIMUM_TAG_LENGTH
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_plain(first) || !is_plain(last) {
        return false;
    }
    component.split(|character: char| character.is_ascii() && is_plain(character as u8)).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn short_names_belong_to_docker_hub() {
        assert_eq!(canonical("alpine"), "docker.io/library/alpine:latest");
        assert_eq!(canonical("alpine:3.20"), "docker.io/library/alpine:3.20");
        assert_eq!(canonical("team/image"), "docker.io/team/image:latest");
        assert_eq!(canonical("docker.io/alpine"), "docker.io/library/alpine:latest");
        assert_eq!(canonical("index.docker.io/alpine"), "docker.io/library/alpine:latest");
        let reference: Reference = "vmi_ext_boot/kernel_initrd_binaries_container:latest".parse().unwrap();
        assert!(reference.was_short_name());
        assert_eq!(reference.short_name(), Some("vmi_ext_boot/kernel_initrd_binaries_container"));
        assert!(!"docker.io/alpine".parse::<Reference>().unwrap().was_short_name());
    }

    #[test]
    fn registries_are_recognised_by_dot_port_or_localhost() {
        assert_eq!(canonical("localhost/a"), "localhost/a:latest");
        assert_eq!(canonical("localhost:5000/a/b:c"), "localhost:5000/a/b:c");
        assert_eq!(canonical("127.0.0.1:5000/a"), "127.0.0.1:5000/a:latest");
        assert_eq!(canonical("[::1]:5000/a:t"), "[::1]:5000/a:t");
        assert_eq!(canonical("[::1]/a"), "[::1]/a:latest");
        assert_eq!(canonical("node/a"), "docker.io/node/a:latest");
    }

    #[test]
    fn digests_stand_beside_or_instead_of_tags() {
        let digest = Digest::sha256_of(b"x");
        let both: Reference = format!("r.example.com/a:t@{digest}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("t"), Some(&digest)));
        assert_eq!(both.manifest_selector(), digest.to_string());
        let only: Reference = format!("r.example.com/a@{digest}").parse().unwrap();
        assert_eq!((only.tag(), only.tag_was_implied()), (None, false));
        assert_eq!(both.with_digest(digest.clone()), only);
    }

    #[test]
    fn malformed_references_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Reference>().unwrap_err();
        assert_eq!(error(""), ReferenceError::Empty);
        assert!(
            matches!(error("https://quay.io/a/b"), ReferenceError::Url { without_scheme, .. } if without_scheme == "quay.io/a/b")
        );
        assert!(matches!(error("quay.io/Team/b"), ReferenceError::Uppercase { .. }));
        assert!(matches!(error("Alpine"), ReferenceError::Uppercase { .. }));
        assert!(
            matches!(error("quay.io/a//b"), ReferenceError::Component { component, .. } if component.is_empty())
        );
        assert!(matches!(error("quay.io/a.-b"), ReferenceError::Component { .. }));
        assert!(matches!(error("quay.io/../b"), ReferenceError::Component { .. }));
        assert!(matches!(error("quay.io/a___b"), ReferenceError::Component { .. }));
        assert!(matches!(error("quay.io/a:"), ReferenceError::Tag { .. }));
        assert!(matches!(error("quay.io/a:.x"), ReferenceError::Tag { .. }));
        assert!(matches!(error("quay.io:99999/a"), ReferenceError::Registry { .. }));
        assert!(matches!(error("-x.io/a"), ReferenceError::Registry { .. }));
        assert!(matches!(error("quay.io/a@sha256:0"), ReferenceError::Digest { .. }));
        assert!(matches!(error(&"a".repeat(64)), ReferenceError::ImageId { .. }));
        assert!(matches!(error(&format!("q.io/{}", "a".repeat(251))), ReferenceError::TooLong { .. }));
        assert!(format!("q.io/{}", "a".repeat(250)).parse::<Reference>().is_ok());
        assert!(format!("q.io/a:{}", "a".repeat(128)).parse::<Reference>().is_ok());
        assert!(matches!(error(&format!("q.io/a:{}", "a".repeat(129))), ReferenceError::Tag { .. }));
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(
            text in "([a-z]{1,5}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/|localhost(:5000)?/)?[a-z0-9]{1,5}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,4}(__|--)[a-z0-9]){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,6})?(@sha256:[0-9a-f]{64})?"
        ) {
            let reference: Reference = text.parse().unwrap();
            let again: Reference = reference.to_string().parse().unwrap();
            prop_assert_eq!(again.to_string(), reference.to_string());
            prop_assert_eq!(again, reference);
        }

        #[test]
        fn no_text_panics_and_accepted_names_are_safe_in_paths(text in "\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(!reference.repository().split('/').any(|part| part.is_empty() || part == ".." || part == "."));
                prop_assert!(reference.to_string().parse::<Reference>().is_ok());
            }
        }
    }
}
