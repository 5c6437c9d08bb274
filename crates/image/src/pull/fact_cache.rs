//! What layers said about paths: remembered, since each question reads an index from beginning to end, and bounded, since
//! both names and questions may come from a hostile image.

use std::collections::HashMap;

use crate::layer::Fact;
use crate::store::StoreError;

/// Bytes that are remembered of all layers together. Paths of real images take some kilobytes.
const LIMIT_BYTES: usize = 2 << 20;

/// What one remembered answer takes beside its names, roughly.
const OVERHEAD_BYTES: usize = 256;

/// Answers of the layers of one image.
#[derive(Default)]
pub(super) struct FactCache {
    layers: HashMap<usize, HashMap<Vec<u8>, Fact>>,
    held_bytes: usize,
}

impl FactCache {
    /// What a layer says about these paths, in their order. `ask` is called with those that are not remembered, if any.
    pub(super) fn facts(
        &mut self,
        layer: usize,
        paths: &[Vec<u8>],
        ask: impl FnOnce(&[Vec<u8>]) -> Result<Vec<Fact>, StoreError>,
    ) -> Result<Vec<Fact>, StoreError> {
        let known = self.layers.entry(layer).or_default();
        let mut facts: Vec<Option<Fact>> = paths.iter().map(|path| known.get(path).cloned()).collect();
        let unknown: Vec<Vec<u8>> = paths
            .iter()
            .zip(&facts)
            .filter(|(_, fact)| fact.is_none())
            .map(|(path, _)| path.clone())
            .collect();
        if !unknown.is_empty() {
            let told = ask(&unknown)?;
            let missing = facts.iter_mut().filter(|fact| fact.is_none());
            missing.zip(&told).for_each(|(fact, told)| *fact = Some(told.clone()));
            self.remember(layer, unknown, told);
        }
        Ok(facts.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn remember(&mut self, layer: usize, paths: Vec<Vec<u8>>, facts: Vec<Fact>) {
        let added_bytes: usize = paths.iter().zip(&facts).map(|(path, fact)| held_bytes(path, fact)).sum();
        if self.held_bytes + added_bytes > LIMIT_BYTES {
            self.layers.clear();
            self.held_bytes = 0;
        }
        if added_bytes <= LIMIT_BYTES {
            self.held_bytes += added_bytes;
            self.layers.entry(layer).or_default().extend(paths.into_iter().zip(facts));
        }
    }
}

fn held_bytes(path: &[u8], fact: &Fact) -> usize {
    let names = fact.entry.as_ref().map_or(0, |entry| entry.path.len() + entry.link.len());
    path.len() + names + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn about(paths: &[Vec<u8>]) -> Vec<Fact> {
        // The length of the path tells the answers apart.
        paths.iter().map(|path| Fact { is_opaque: path.len() % 2 == 1, ..Fact::default() }).collect()
    }

    #[test]
    fn only_what_is_not_remembered_is_asked() {
        let mut cache = FactCache::default();
        let first = [b"a".to_vec(), b"bb".to_vec()];
        assert_eq!(cache.facts(0, &first, |paths| Ok(about(paths))).unwrap(), about(&first));
        let second = [b"bb".to_vec(), b"ccc".to_vec(), b"a".to_vec()];
        let mut asked = Vec::new();
        let answer = cache.facts(0, &second, |paths| {
            asked = paths.to_vec();
            Ok(about(paths))
        });
        assert_eq!((answer.unwrap(), asked), (about(&second), vec![b"ccc".to_vec()]));
        assert_eq!(cache.facts(0, &second, |_| panic!("all is known")).unwrap(), about(&second));
        // Another layer says other things.
        let mut was_asked = false;
        let answer = cache.facts(1, &first, |paths| {
            was_asked = true;
            Ok(vec![Fact::default(); paths.len()])
        });
        assert!(was_asked && answer.unwrap() == [Fact::default(), Fact::default()]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut cache = FactCache::default();
        for round in 0..200_u32 {
            let paths: Vec<Vec<u8>> =
                (0..17).map(|at| format!("{round}/{at}/{}", "n".repeat(4000)).into_bytes()).collect();
            let layer = round as usize % 100;
            assert_eq!(cache.facts(layer, &paths, |paths| Ok(about(paths))).unwrap(), about(&paths));
            let held: usize = cache.layers.values().flatten().map(|(path, _)| path.len()).sum();
            assert!(held <= LIMIT_BYTES, "{held} bytes after round {round}");
        }
        // More at once than is remembered is answered all the same.
        let paths: Vec<Vec<u8>> =
            (0..1000).map(|at| format!("{at}/{}", "n".repeat(4000)).into_bytes()).collect();
        assert_eq!(cache.facts(0, &paths, |paths| Ok(about(paths))).unwrap(), about(&paths));
        assert!(cache.layers.is_empty());
    }
}
