//! The query parameters that requests take.

use serde_json::{Value, json};

/// (name, type, what it says).
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages \
     will be processed",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "fieldManager is a name associated with the actor or entity that is making these changes.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown \
     or duplicate fields. Valid values are: - Ignore - Warn - Strict",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other \
     people.",
);
const RESOURCE_VERSION: Parameter = (
    "resourceVersion",
    "string",
    "resourceVersion sets a constraint on what resource versions a request may be served from.",
);
const CONTINUE: Parameter =
    ("continue", "string", "The continue option should be set when retrieving more results from the server.");
const FIELD_SELECTOR: Parameter =
    ("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields.");
const LABEL_SELECTOR: Parameter =
    ("labelSelector", "string", "A selector to restrict the list of returned objects by their labels.");
const LIMIT: Parameter =
    ("limit", "integer", "limit is a maximum number of responses to return for a list call.");
const RESOURCE_VERSION_MATCH: Parameter = (
    "resourceVersionMatch",
    "string",
    "resourceVersionMatch determines how resourceVersion is applied to list calls.",
);
const TIMEOUT_SECONDS: Parameter = ("timeoutSeconds", "integer", "Timeout for the list/watch call.");
const GRACE_PERIOD_SECONDS: Parameter = (
    "gracePeriodSeconds",
    "integer",
    "The duration in seconds before the object should be deleted. Value must be non-negative integer.",
);
const ORPHAN_DEPENDENTS: Parameter =
    ("orphanDependents", "boolean", "Deprecated: please use the PropagationPolicy.");
const PROPAGATION_POLICY: Parameter =
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed.");

/// A list or a watch.
pub(super) const LIST: &[Parameter] = &[
    PRETTY,
    ("allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."),
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    (
        "sendInitialEvents",
        "boolean",
        "`sendInitialEvents=true` may be set together with `watch=true`: the watch begins with the current state.",
    ),
    TIMEOUT_SECONDS,
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove \
         notifications.",
    ),
];
/// One object.
pub(super) const GET: &[Parameter] = &[PRETTY, RESOURCE_VERSION];
/// A new object, or one in place of another.
pub(super) const WRITE: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
/// A patch.
pub(super) const PATCH: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
/// The end of an object.
pub(super) const DELETE: &[Parameter] =
    &[PRETTY, DRY_RUN, GRACE_PERIOD_SECONDS, ORPHAN_DEPENDENTS, PROPAGATION_POLICY];
/// The end of many.
pub(super) const DELETE_COLLECTION: &[Parameter] = &[
    PRETTY,
    DRY_RUN,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    GRACE_PERIOD_SECONDS,
    ORPHAN_DEPENDENTS,
    PROPAGATION_POLICY,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    TIMEOUT_SECONDS,
];
/// A Pod's log.
pub(super) const LOG: &[Parameter] = &[
    PRETTY,
    ("container", "string", "The container for which to stream logs."),
    ("follow", "boolean", "Follow the log stream of the pod. Defaults to false."),
    (
        "limitBytes",
        "integer",
        "The number of bytes to read from the server before terminating the log output.",
    ),
    ("previous", "boolean", "Return previous terminated container logs. Defaults to false."),
    (
        "sinceSeconds",
        "integer",
        "A relative time in seconds before the current time from which to show logs.",
    ),
    ("tailLines", "integer", "The number of lines from the end of the logs to show."),
    ("timestamps", "boolean", "If true, add a timestamp at the beginning of every line of log output."),
];

/// As OpenAPI v3 has them.
pub(super) fn query(parameters: &[Parameter]) -> Vec<Value> {
    parameters
        .iter()
        .map(|(name, kind, description)| {
            json!({
                "name": name, "in": "query", "description": description,
                "schema": {"type": kind, "uniqueItems": true},
            })
        })
        .collect()
}

/// A part of the path.
pub(super) fn path(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "description": description, "required": true,
        "schema": {"type": "string", "uniqueItems": true},
    })
}
