//! What the user may have meant by a path that is not there.

use super::{LayerFacts, elements, is_visible, prefixes};
use crate::layer::{EntryKind, EntryRecord};
use crate::store::StoreError;

/// How many are told.
const TOLD: usize = 5;

/// How many are looked at more closely: some turn out to be hidden by higher layers.
const KEPT: usize = 24;

/// Paths with more elements or bytes than these are not told: nobody meant them.
const ELEMENTS: usize = 64;
const BYTES: usize = 1024;

/// Shorter names than this resemble too much.
const COMMON_BYTES: usize = 3;

/// Collects the entries that resemble a path most. Takes the entries of any number of layers, keeps few.
pub(crate) struct NearMisses {
    /// Directory of the first missing path.
    directory: Vec<u8>,
    /// Last element of the first missing path.
    missing_name: Vec<u8>,
    /// Last element of the path that was asked for.
    wanted_name: Vec<u8>,
    /// Score (less is nearer) and path, sorted.
    kept: Vec<(u32, Vec<u8>)>,
}

impl NearMisses {
    /// For a path that was asked for, and the first path on its way that is missing.
    pub(crate) fn new(requested: &str, missing: &str) -> Self {
        let missing: Vec<Vec<u8>> = elements(missing.as_bytes()).collect();
        let (missing_name, directory) =
            missing.split_last().map(|(name, rest)| (name.clone(), rest)).unwrap_or_default();
        Self {
            directory: directory.join(&b'/'),
            missing_name,
            wanted_name: elements(requested.as_bytes()).last().unwrap_or_default(),
            kept: Vec::new(),
        }
    }

    /// Takes one entry of a layer.
    pub(crate) fn take(&mut self, record: &EntryRecord) {
        if !matches!(record.kind, EntryKind::File | EntryKind::Symlink | EntryKind::HardLink) {
            return;
        }
        let path = &record.path;
        if path.len() > BYTES || path.iter().filter(|byte| **byte == b'/').count() >= ELEMENTS {
            return;
        }
        let Some(score) = self.score(&record.path) else {
            return;
        };
        let found = (score, record.path.clone());
        if let Err(position) = self.kept.binary_search(&found)
            && position < KEPT
        {
            self.kept.insert(position, found);
            self.kept.truncate(KEPT);
        }
    }

    fn score(&self, path: &[u8]) -> Option<u32> {
        let parent = crate::layer::parent_of(path);
        let name = if parent.is_empty() { path } else { &path[parent.len() + 1..] };
        let is_sibling = parent == self.directory;
        if name == self.wanted_name {
            return Some(0);
        }
        let one_continues_other = |left: &[u8], right: &[u8]| {
            left.len().min(right.len()) >= COMMON_BYTES
                && (left.starts_with(right) || right.starts_with(left))
        };
        if is_sibling {
            if one_continues_other(name, &self.missing_name) {
                return Some(1);
            }
            let common =
                name.iter().zip(&self.missing_name).take_while(|(left, right)| left == right).count();
            return if common >= COMMON_BYTES {
                Some(3)
            } else if self.missing_name == self.wanted_name && !self.directory.is_empty() {
                Some(4)
            } else {
                None
            };
        }
        one_continues_other(name, &self.wanted_name).then_some(2)
    }

    /// The nearest that are really there, as absolute paths.
    pub(crate) fn finish(self, layers: &mut impl LayerFacts) -> Result<Vec<String>, StoreError> {
        let paths: Vec<Vec<Vec<u8>>> = self.kept.iter().map(|(_, path)| elements(path).collect()).collect();
        // Asked at once, so that each index is read once; what is asked again below is remembered.
        let on_the_way: Vec<Vec<u8>> = paths.iter().flat_map(|path| prefixes(path)).collect();
        for layer in 0..layers.layer_count() {
            layers.facts(layer, &on_the_way)?;
        }
        let mut told = Vec::new();
        for path in paths {
            if told.len() == TOLD {
                break;
            }
            if is_visible(&path, layers)? {
                told.push(super::display(&path));
            }
        }
        Ok(told)
    }
}
