//! The HTTP side: what a request asks for, who may ask, and how the answer is written.

pub mod extension;
pub mod negotiate;
pub mod query;
pub mod request_info;
