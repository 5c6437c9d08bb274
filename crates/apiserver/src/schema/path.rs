//! Where one is in a value, without allocating until somebody asks.

use std::fmt::Write as _;

/// Longer paths are cut: a path is for people, and a body may hold a megabyte of key above ten thousand faults.
const LONGEST_PATH: usize = 2048;

/// A place in a value; each level lives on the stack of the walk over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

/// One step down.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The whole value.
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A field of the object here, or a key of the map here.
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// An item of the list here.
    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `spec.containers[0].name`; empty for the whole value.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(text);
        }
        if text.len() > LONGEST_PATH {
            return;
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(name.chars().take(LONGEST_PATH));
            }
            Step::Index(index) => {
                // Writing into a `String` cannot fail.
                let _ = write!(text, "[{index}]");
            }
        }
    }
}
