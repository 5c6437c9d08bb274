//! Label and field selectors.

mod fields;
mod labels;
mod parser;
#[cfg(test)]
mod tests;

pub use fields::Fields;
pub use labels::Labels;
