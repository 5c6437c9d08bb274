//! Get and list: which version of what is shown (`resourceVersion`, `resourceVersionMatch`, `limit`, `continue`).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::kind::{Compute, Kind};
use crate::object;
use crate::selector::{Fields, Labels};
use crate::status::{ApiError, Details, FieldError};
use crate::store::{HistoryError, Listing, Stored};

use super::request::check_options;
use super::write::with_cause;
use super::{Answer, Api, List, ListOptions, Target, View};

/// How long a request waits for a version that is yet to come (`blockTimeout` of the watch cache).
const FRESHNESS: Duration = Duration::from_secs(3);
/// How many objects are looked at in one go when a page is filtered.
const CHUNK: usize = 1000;
/// What Kubernetes says to a `continue` whose version is compacted away.
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
deleted between the time the first chunk was returned and now may show up in the list.";

/// Which version a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The newest, or any.
    Newest,
    /// One that is at least this new.
    NotOlderThan(u64),
    /// This one.
    Exact(u64),
}

/// A `continue` token: what Kubernetes' holds, in Kubernetes' form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    v: String,
    /// The version of the list; -1: whatever is newest.
    pub(super) rv: i64,
    /// The key after which the next page begins: `NAMESPACE/NAME` and a NUL.
    start: String,
}

impl Token {
    pub(super) fn after(revision: i64, last: &Stored) -> Self {
        let key = if last.namespace.is_empty() {
            format!("{}\0", last.name)
        } else {
            format!("{}/{}\0", last.namespace, last.name)
        };
        Self { v: "meta.k8s.io/v1".to_owned(), rv: revision, start: key }
    }

    pub(super) fn encode(&self) -> String {
        // A struct of two texts and a number always has a JSON form.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: String| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes =
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| invalid(error.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(invalid(format!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 || token.rv < -1 {
            return Err(invalid(
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned(),
            ));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)".to_owned()));
        }
        Ok(token)
    }

    /// The namespace and the name after which the next page begins.
    pub(super) fn position(&self) -> (&str, &str) {
        let key = self.start.strip_suffix('\0').unwrap_or(&self.start);
        key.split_once('/').unwrap_or(("", key))
    }
}

/// Label and field selectors of a list or a watch.
#[derive(Debug, Clone)]
pub(super) struct Selectors {
    labels: Labels,
    fields: Fields,
}

impl Selectors {
    pub(super) fn parse(kind: &Kind, options: &ListOptions) -> Result<Self, ApiError> {
        Ok(Self {
            labels: Labels::parse(&options.label_selector)?,
            fields: Fields::parse(&options.field_selector, kind)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether a stored object is selected. Parses only what names and namespaces have not ruled out.
    pub(super) fn matches(&self, view: &View, stored: &Stored) -> bool {
        if self.is_empty() {
            return true;
        }
        if self.fields.exact_name().is_some_and(|name| name != &*stored.name)
            || self.fields.exact_namespace().is_some_and(|namespace| namespace != &*stored.namespace)
        {
            return false;
        }
        if !self.labels.matches_json(&stored.json) {
            return false;
        }
        self.fields.is_empty() || view.value(stored).is_ok_and(|object| self.fields.matches(&object))
    }
}

/// Reads a `resourceVersion` of a query; `None` where it is empty.
pub(super) fn parse_version(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let error = FieldError::invalid(
            "resourceVersion",
            text,
            format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
        );
        ApiError::bad_request(format!("invalid resource version: {error}"))
    })
}

/// Checks a list's options (`ValidateListOptions` of apimachinery) and says which version is wanted.
pub(super) fn wanted(options: &ListOptions) -> Result<Wanted, ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let mut errors = Vec::new();
    let version_match = options.resource_version_match.as_str();
    let mut forbidden = |field: &str, why: &str| errors.push(FieldError::forbidden(field, why));
    if !version_match.is_empty() {
        if options.resource_version.is_empty() {
            forbidden(FIELD, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !options.continue_token.is_empty() {
            forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided");
        }
        if version_match == "Exact" && options.resource_version == "0" {
            forbidden(FIELD, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if options.send_initial_events.is_some() {
        forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if !matches!(version_match, "" | "Exact" | "NotOlderThan") {
        errors.push(FieldError::not_supported(FIELD, version_match, ["", "Exact", "NotOlderThan"]));
    }
    check_options("ListOptions", &errors)?;
    let version = parse_version(&options.resource_version)?;
    if !options.continue_token.is_empty() && version.is_some_and(|version| version != 0) {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(match (version, version_match) {
        (None | Some(0), _) => Wanted::Newest,
        (Some(version), "Exact") => Wanted::Exact(version),
        (Some(version), "") if options.limit > 0 => Wanted::Exact(version),
        (Some(version), _) => Wanted::NotOlderThan(version),
    })
}

/// 504: the version is yet to come.
pub(super) fn too_large(version: u64, current: u64) -> ApiError {
    let message = format!("Timeout: Too large resource version: {version}, current: {current}");
    let mut error = ApiError::new(504, "Timeout", message);
    error.details = Some(Box::new(Details { retry_after_seconds: Some(1), ..Details::default() }));
    with_cause(error, "ResourceVersionTooLarge", "Too large resource version".to_owned(), "")
}

fn history_error(error: &HistoryError, version: u64) -> ApiError {
    match error {
        HistoryError::Compacted { .. } => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        HistoryError::Future { current } => too_large(version, *current),
        HistoryError::Unavailable(cause) => {
            ApiError::internal(format_args!("the history cannot be read: {cause}"))
        }
    }
}

impl Api {
    pub(super) async fn wait_until(&self, version: u64) -> Result<(), ApiError> {
        let store = &self.inner.store;
        if version <= store.revision() || store.wait_for(version, FRESHNESS).await {
            return Ok(());
        }
        Err(too_large(version, store.revision()))
    }

    pub(super) async fn get_object(
        &self,
        target: &Target<'_>,
        resource_version: &str,
    ) -> Result<Answer, ApiError> {
        if let Some(version) = parse_version(resource_version)? {
            self.wait_until(version).await?;
        }
        let kind = target.kind;
        let stored = match &kind.computed {
            Some(compute) => {
                let mut computed = computed(&**compute, Some(target.namespace)).await?.into_iter();
                computed.find(|stored| &*stored.name == target.name)
            }
            None => self.inner.store.get(&kind.storage_prefix(), target.namespace, target.name),
        };
        let stored = stored.ok_or_else(|| ApiError::not_found(kind.group_resource(), target.name))?;
        let content = View::new(kind, target.version).content(stored)?;
        Ok(Answer { code: 200, content, warnings: Vec::new() })
    }

    pub(super) async fn list_objects(
        &self,
        target: &Target<'_>,
        options: &ListOptions,
    ) -> Result<List, ApiError> {
        let wanted = wanted(options)?;
        let selectors = Selectors::parse(target.kind, options)?;
        let view = View::new(target.kind, target.version);
        let prefix = target.kind.storage_prefix();
        let namespace = (!target.namespace.is_empty()).then_some(target.namespace);
        // The watch cache serves `resourceVersion=0` whole, whatever the limit.
        let limit = if options.resource_version == "0" && options.continue_token.is_empty() {
            0
        } else {
            usize::try_from(options.limit).unwrap_or(usize::MAX)
        };
        let token = match options.continue_token.as_str() {
            "" => None,
            text => Some(Token::decode(text)?),
        };
        let wanted = match &token {
            Some(token) => u64::try_from(token.rv).map_or(Wanted::Newest, Wanted::Exact),
            None => wanted,
        };
        let store = &self.inner.store;
        let after = token.as_ref().map(Token::position);
        let exact = match wanted {
            Wanted::Newest => None,
            Wanted::NotOlderThan(version) => {
                self.wait_until(version).await?;
                None
            }
            Wanted::Exact(version) => {
                self.wait_until(version).await?;
                Some(version)
            }
        };
        if let Some(compute) = &target.kind.computed {
            let listing =
                Listing { revision: store.revision(), items: computed(&**compute, namespace).await? };
            let revision = listing.revision;
            return Ok(page_of(listing, revision, after, limit, &selectors, view));
        }
        // One name in one namespace needs no walk.
        if token.is_none()
            && exact.is_none()
            && let (Some(name), Some(namespace)) =
                (selectors.fields.exact_name(), namespace.or(cluster_scope(target.kind)))
        {
            let revision = store.revision();
            let items: Vec<_> = store
                .get(&prefix, namespace, name)
                .into_iter()
                .filter(|stored| selectors.matches(&view, stored))
                .collect();
            let revision = items.iter().map(|stored| stored.revision).max().unwrap_or_default().max(revision);
            return Ok(List { items, view, revision, continue_token: String::new(), remaining: None });
        }
        // What has not changed since an old version is the same now, and is at hand.
        let unchanged = exact.is_none_or(|version| store.last_changed(&prefix) <= version);
        if unchanged && limit > 0 && selectors.is_empty() {
            let mut page = store.list_from(&prefix, namespace, after, limit.saturating_add(1));
            // Between the look at the last change and the page there may have been a write.
            if exact.is_none_or(|version| store.last_changed(&prefix) <= version) {
                let more = page.items.len() > limit;
                page.items.truncate(limit);
                let remaining = more.then(|| self.count_after(&prefix, namespace, page.items.last()));
                let revision = exact.unwrap_or(page.revision);
                return Ok(finish(page.items, view, revision, more, remaining));
            }
        }
        let listing = match exact {
            Some(version) => match store.list_at(&prefix, namespace, version).await {
                Ok(listing) => listing,
                Err(error) => return Err(expired(&error, version, token.as_ref())),
            },
            None => store.list(&prefix, namespace),
        };
        let revision = exact.unwrap_or(listing.revision);
        Ok(page_of(listing, revision, after, limit, &selectors, view))
    }

    fn count_after(&self, prefix: &str, namespace: Option<&str>, last: Option<&Arc<Stored>>) -> u64 {
        let position = last.map(|last| (&*last.namespace, &*last.name));
        self.inner.store.list_from(prefix, namespace, position, usize::MAX).items.len() as u64
    }
}

/// The objects of a kind that nothing is stored of, in one namespace or in all, in the order of lists.
async fn computed(compute: &Compute, namespace: Option<&str>) -> Result<Vec<Arc<Stored>>, ApiError> {
    let objects = compute().await?;
    let wanted =
        objects.iter().filter(|object| namespace.is_none_or(|wanted| object::namespace(object) == wanted));
    let mut items = wanted
        .map(|object| {
            Ok(Arc::new(Stored {
                namespace: object::namespace(object).into(),
                name: object::name(object).into(),
                revision: 0,
                created_revision: 0,
                json: serde_json::to_vec(object).map_err(ApiError::internal)?.into(),
            }))
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    items.sort_unstable_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok(items)
}

fn cluster_scope(kind: &Kind) -> Option<&'static str> {
    (kind.scope == crate::kind::Scope::Cluster).then_some("")
}

/// 410 for an old version; a `continue` gets a token with it that goes on at the newest version.
fn expired(error: &HistoryError, version: u64, token: Option<&Token>) -> ApiError {
    match (error, token) {
        (HistoryError::Compacted { .. }, Some(token)) => {
            let mut error = ApiError::expired(INCONSISTENT);
            let fresh = Token { rv: -1, ..token.clone() }.encode();
            error.details = Some(Box::new(Details { continue_token: fresh, ..Details::default() }));
            error
        }
        _ => history_error(error, version),
    }
}

/// A page of a whole listing. Pure.
fn page_of(
    listing: Listing,
    revision: u64,
    after: Option<(&str, &str)>,
    limit: usize,
    selectors: &Selectors,
    view: View,
) -> List {
    let start = match after {
        Some(after) => listing.items.partition_point(|item| (&*item.namespace, &*item.name) <= after),
        None => 0,
    };
    let rest = &listing.items[start..];
    if limit == 0 {
        let items = if start == 0 && selectors.is_empty() {
            listing.items
        } else {
            rest.iter().filter(|item| selectors.matches(&view, item)).cloned().collect()
        };
        return finish(items, view, revision, false, None);
    }
    let mut items = Vec::with_capacity(limit.min(CHUNK));
    let mut looked_at = 0;
    for item in rest {
        if items.len() == limit {
            break;
        }
        looked_at += 1;
        if selectors.matches(&view, item) {
            items.push(Arc::clone(item));
        }
    }
    let left = rest.len() - looked_at;
    let remaining = (left > 0 && selectors.is_empty()).then_some(left as u64);
    finish(items, view, revision, left > 0, remaining)
}

fn finish(items: Vec<Arc<Stored>>, view: View, revision: u64, more: bool, remaining: Option<u64>) -> List {
    let continue_token = match items.last() {
        Some(last) if more => Token::after(i64::try_from(revision).unwrap_or(i64::MAX), last).encode(),
        _ => String::new(),
    };
    List { items, view, revision, continue_token, remaining }
}
