//! Bodies into JSON values, strictly.
