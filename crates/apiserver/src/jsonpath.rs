//! The JSONPath of printer columns.
