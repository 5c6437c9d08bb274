//! Which form an answer takes, and which forms of a body are read.
//!
//! The rules are those of `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`: the clauses of `Accept` are tried in
//! the order of their weight, and the first that can be met wins.

use crate::discovery::Aggregated;
use crate::protobuf;
use crate::status::ApiError;
use crate::verbs::PatchFormat;

/// How an answer is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
}

impl Encoding {
    /// The answer's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// What an object is turned into before it is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    #[default]
    None,
    /// A `Table` of this version of meta.k8s.io.
    Table(MetaVersion),
    /// `PartialObjectMetadata`
    Partial(MetaVersion),
    /// `PartialObjectMetadataList`
    PartialList(MetaVersion),
}

/// A version of meta.k8s.io.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaVersion {
    /// What clients since 2019 ask for first.
    V1,
    /// What clients before that know.
    V1beta1,
}

impl MetaVersion {
    /// `meta.k8s.io/v1`
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    /// How it is encoded.
    pub encoding: Encoding,
    /// What it is turned into.
    pub transform: Transform,
    /// JSON is indented.
    pub pretty: bool,
}

/// One clause of an `Accept` header.
#[derive(Debug, Clone, PartialEq)]
pub struct Clause<'a> {
    /// `application`, or `*`.
    pub main: &'a str,
    /// `json`, or `*`.
    pub sub: &'a str,
    /// The parameters but `q`, names in small letters.
    pub parameters: Vec<(String, &'a str)>,
    weight: f32,
}

impl Clause<'_> {
    /// A parameter's value; empty where there is none.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Whether the clause allows this media type.
    pub fn allows(&self, main: &str, sub: &str) -> bool {
        (self.main == "*" && self.sub == "*")
            || (self.main.eq_ignore_ascii_case(main)
                && (self.sub == "*" || self.sub.eq_ignore_ascii_case(sub)))
    }
}

/// More clauses than any client sends; what follows is not looked at.
const MOST_CLAUSES: usize = 64;

/// The clauses of an `Accept` header, the most wanted first. Weights outside of 0…1 count as 1, as `goautoneg` has it;
/// a clause of weight 0 is one that the client does not want.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<_> = accept.split(',').take(MOST_CLAUSES).filter_map(clause).collect();
    clauses.retain(|clause| clause.weight > 0.0);
    // Stable: among equals the earlier one is wanted more, and what is exact more than `*`.
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| wildness(a).cmp(&wildness(b))));
    clauses
}

fn wildness(clause: &Clause<'_>) -> u8 {
    u8::from(clause.main == "*") + u8::from(clause.sub == "*")
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut pieces = text.split(';').map(str::trim);
    let media = pieces.next()?;
    let (main, sub) = match media.split_once('/') {
        Some((main, sub)) => (main.trim(), sub.trim()),
        None if media == "*" => ("*", "*"),
        None => return None,
    };
    let mut weight = 1.0;
    let mut parameters = Vec::new();
    for piece in pieces.take(MOST_CLAUSES) {
        let Some((name, value)) = piece.split_once('=') else { continue };
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim().trim_matches('"');
        if name == "q" {
            weight = value.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(1.0);
        } else {
            parameters.push((name, value));
        }
    }
    Some(Clause { main, sub, parameters, weight })
}

/// What an endpoint can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Objects and lists: every form.
    Objects,
    /// Watches: JSON alone, and every transform.
    Watch,
    /// Documents (discovery, `Status`, reviews): no transforms.
    Plain,
}

/// Chooses the form of an answer. `accept` is the whole header (several are joined by commas); empty means JSON.
///
/// # Errors
/// 406 when nothing that the client accepts can be written.
pub fn form(accept: &str, endpoint: Endpoint) -> Result<Form, ApiError> {
    if accept.trim().is_empty() {
        return Ok(Form::default());
    }
    for clause in clauses(accept) {
        let encoding = if clause.allows("application", "json") {
            Encoding::Json
        } else if endpoint != Endpoint::Watch && clause.allows("application", "yaml") {
            Encoding::Yaml
        } else {
            continue;
        };
        if let Some(transform) = transform(&clause, endpoint) {
            let pretty = clause.parameter("pretty") == "1";
            return Ok(Form { encoding, transform, pretty });
        }
    }
    Err(not_acceptable(endpoint))
}

/// What the parameters of a clause ask for; `None` if that cannot be had.
fn transform(clause: &Clause<'_>, endpoint: Endpoint) -> Option<Transform> {
    if endpoint == Endpoint::Watch && !matches!(clause.parameter("stream"), "" | "watch") {
        return None;
    }
    let wanted = clause.parameter("as");
    if wanted.is_empty() {
        return Some(Transform::None);
    }
    if endpoint == Endpoint::Plain || clause.parameter("g") != "meta.k8s.io" {
        return None;
    }
    let version = match clause.parameter("v") {
        "v1" => MetaVersion::V1,
        "v1beta1" => MetaVersion::V1beta1,
        _ => return None,
    };
    match wanted {
        "Table" => Some(Transform::Table(version)),
        "PartialObjectMetadata" => Some(Transform::Partial(version)),
        "PartialObjectMetadataList" => Some(Transform::PartialList(version)),
        _ => None,
    }
}

/// 406, naming what there is.
pub fn not_acceptable(endpoint: Endpoint) -> ApiError {
    let known = match endpoint {
        Endpoint::Watch => "application/json;stream=watch",
        Endpoint::Objects | Endpoint::Plain => "application/json, application/yaml",
    };
    ApiError::new(406, "NotAcceptable", format!("only the following media types are accepted: {known}"))
}

/// How the body of a request is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// How a body is encoded, which may be protobuf where `with_protobuf` (its kind is a built-in one).
///
/// # Errors
/// 415 when it is something else. A missing type means JSON.
pub fn body_encoding(content_type: &str, with_protobuf: bool) -> Result<BodyEncoding, ApiError> {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if media.is_empty() || media.eq_ignore_ascii_case("application/json") {
        Ok(BodyEncoding::Json)
    } else if media.eq_ignore_ascii_case("application/yaml") {
        Ok(BodyEncoding::Yaml)
    } else if with_protobuf && media.eq_ignore_ascii_case(protobuf::MEDIA_TYPE) {
        Ok(BodyEncoding::Protobuf)
    } else if with_protobuf {
        Err(unsupported_media_type(&["application/json", "application/yaml", protobuf::MEDIA_TYPE]))
    } else {
        Err(unsupported_media_type(&["application/json", "application/yaml"]))
    }
}

/// 415, naming what is read.
pub fn unsupported_media_type(known: &[&str]) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        known.join(", ")
    );
    ApiError::new(415, "UnsupportedMediaType", message)
}

/// The kind of a patch.
///
/// # Errors
/// 415 when it is none that this kind of object (`with_strategic`: a built-in one) takes.
pub fn patch_type(content_type: &str, with_strategic: bool) -> Result<PatchFormat, ApiError> {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/json-patch+json" => Ok(PatchFormat::Json),
        "application/merge-patch+json" => Ok(PatchFormat::Merge),
        "application/strategic-merge-patch+json" if with_strategic => Ok(PatchFormat::Strategic),
        "application/apply-patch+yaml" => Ok(PatchFormat::Apply),
        _ => {
            let mut known = vec!["application/json-patch+json", "application/merge-patch+json"];
            if with_strategic {
                known.push("application/strategic-merge-patch+json");
            }
            known.push("application/apply-patch+yaml");
            Err(unsupported_media_type(&known))
        }
    }
}

/// Which discovery document a client wants at `/api` and `/apis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryForm {
    /// Everything at once.
    Aggregated(Aggregated),
    /// The versions or groups alone.
    Plain(Form),
}

/// Chooses between aggregated discovery and the old documents.
///
/// # Errors
/// 406 when nothing that the client accepts can be written.
pub fn discovery_form(accept: &str) -> Result<DiscoveryForm, ApiError> {
    for clause in clauses(accept) {
        if !clause.allows("application", "json") {
            continue;
        }
        let wanted = (clause.parameter("g"), clause.parameter("as"), clause.parameter("v"));
        match wanted {
            ("apidiscovery.k8s.io", "APIGroupDiscoveryList", "v2") => {
                return Ok(DiscoveryForm::Aggregated(Aggregated::V2));
            }
            ("apidiscovery.k8s.io", "APIGroupDiscoveryList", "v2beta1") => {
                return Ok(DiscoveryForm::Aggregated(Aggregated::V2Beta1));
            }
            (_, "", _) => break,
            _ => {}
        }
    }
    form(accept, Endpoint::Plain).map(DiscoveryForm::Plain)
}

/// Whether an `Accept-Encoding` header allows gzip.
pub fn accepts_gzip(accept_encoding: &str) -> bool {
    accept_encoding.split(',').take(MOST_CLAUSES).any(|clause| {
        let mut pieces = clause.split(';').map(str::trim);
        let named = pieces.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = pieces.any(|piece| {
            piece
                .strip_prefix("q=")
                .and_then(|weight| weight.parse::<f32>().ok())
                .is_some_and(|weight| weight <= 0.0)
        });
        named && !refused
    })
}

/// A `Warning` header's value: `299 - "text"`, with what HTTP cannot carry left out.
pub fn warning_header(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    quoted.push_str("299 - \"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(letter);
            }
            letter if letter.is_control() => quoted.push(' '),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
