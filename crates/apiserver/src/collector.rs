//! What happens by itself: owners, namespaces, expiry.
