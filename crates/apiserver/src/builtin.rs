//! The kinds of Kubernetes itself, as data.
