#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::layer::facts_of;

/// Layers in memory, the top one first, of which some were not read.
struct Layers {
    records: Vec<Vec<EntryRecord>>,
    /// How many of them were read, from the top.
    read: usize,
    /// The lowest that was asked.
    asked: Option<usize>,
    /// The most bytes of names in one question.
    question_bytes: usize,
}

impl Layers {
    fn of(records: Vec<Vec<EntryRecord>>) -> Self {
        Self { read: records.len(), records, asked: None, question_bytes: 0 }
    }
}

impl LayerFacts for Layers {
    fn layer_count(&self) -> usize {
        self.records.len()
    }

    fn facts(&mut self, layer: usize, paths: &[Vec<u8>]) -> Result<Option<Vec<Fact>>, StoreError> {
        self.asked = self.asked.max(Some(layer));
        self.question_bytes = self.question_bytes.max(paths.iter().map(Vec::len).sum());
        Ok((layer < self.read).then(|| facts_of(&self.records[layer], paths)))
    }
}

fn entry(kind: EntryKind, path: &str, link: &str) -> EntryRecord {
    EntryRecord {
        kind,
        ordinal: 0,
        path: path.into(),
        link: link.into(),
        size_bytes: 1,
        uid: 107,
        gid: 107,
        mode: 0o644,
    }
}

fn file(path: &str) -> EntryRecord {
    entry(EntryKind::File, path, "")
}

fn directory(path: &str) -> EntryRecord {
    entry(EntryKind::Directory, path, "")
}

fn symlink(path: &str, target: &str) -> EntryRecord {
    entry(EntryKind::Symlink, path, target)
}

fn whiteout(path: &str) -> EntryRecord {
    entry(EntryKind::Whiteout, path, "")
}

fn opaque(path: &str) -> EntryRecord {
    entry(EntryKind::Opaque, path, "")
}

/// Layer and path that a path leads to, or the message of the error.
fn lead(path: &str, layers: &mut Layers) -> Result<(usize, String), String> {
    match resolve(path, layers, 1 << 20) {
        Ok(Resolution::Found { layer, resolved, .. }) => Ok((layer, String::from_utf8(resolved).unwrap())),
        Ok(Resolution::NeedLayer { layer, candidate }) => {
            Err(format!("needs layer {layer} for {}", String::from_utf8(candidate).unwrap()))
        }
        Err(ResolveFailure::Path(error)) => Err(error.to_string()),
        Err(ResolveFailure::Store(error)) => panic!("no store here: {error}"),
    }
}

fn found(layer: usize, path: &str) -> Result<(usize, String), String> {
    Ok((layer, path.to_owned()))
}

#[test]
fn a_lower_layer_is_not_asked_for_what_the_top_one_has() {
    let mut layers = Layers::of(vec![vec![file("boot/vmlinuz")], vec![file("boot/vmlinuz")]]);
    layers.read = 1;
    assert_eq!(lead("/boot/vmlinuz", &mut layers), found(0, "boot/vmlinuz"));
    assert_eq!(layers.asked, Some(0));
    assert_eq!(lead("/boot/initrd", &mut layers), Err("needs layer 1 for boot/initrd".to_owned()));
}

#[test]
fn whiteouts_and_opaque_directories_end_the_search() {
    for hiding in [whiteout("boot/vmlinuz"), whiteout("boot"), opaque("boot"), opaque("")] {
        let mut layers = Layers::of(vec![vec![hiding.clone()], vec![file("boot/vmlinuz")]]);
        layers.read = 1;
        let answer = lead("/boot/vmlinuz", &mut layers).unwrap_err();
        assert!(answer.contains("does not exist in the image"), "{hiding:?}: {answer}");
        assert_eq!(layers.asked, Some(0), "{hiding:?}");
    }
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    let mut layers = Layers::of(vec![vec![file("boot/vmlinuz"), opaque("boot"), whiteout("boot/vmlinuz")]]);
    assert_eq!(lead("/boot/vmlinuz", &mut layers), found(0, "boot/vmlinuz"));
}

#[test]
fn a_file_above_hides_the_directory_below_and_the_other_way_round() {
    let mut layers = Layers::of(vec![vec![file("boot")], vec![file("boot/vmlinuz")]]);
    assert_eq!(lead("/boot/vmlinuz", &mut layers), Err("`/boot` is not a directory in the image".to_owned()));
    let mut layers =
        Layers::of(vec![vec![directory("boot")], vec![file("boot")], vec![file("boot/vmlinuz")]]);
    assert_eq!(
        lead("/boot/vmlinuz", &mut layers),
        Err("`/boot/vmlinuz` does not exist in the image".to_owned())
    );
    assert_eq!(layers.asked, Some(1));
}

#[test]
fn symlinks_are_followed_inside_the_image() {
    let records = vec![
        vec![symlink("vmlinuz", "/boot/current/vmlinuz"), symlink("boot/current", "../../../lib/6.1")],
        vec![symlink("lib", "usr/lib"), file("usr/lib/6.1/vmlinuz")],
    ];
    let mut layers = Layers::of(records);
    assert_eq!(lead("/vmlinuz", &mut layers), found(1, "usr/lib/6.1/vmlinuz"));
    // `..` is taken after the symlink, not by looking at the text.
    assert_eq!(lead("boot/current/../6.1/./vmlinuz", &mut layers), found(1, "usr/lib/6.1/vmlinuz"));
    assert_eq!(lead("/../../vmlinuz", &mut layers), found(1, "usr/lib/6.1/vmlinuz"));
}

#[test]
fn a_symlink_found_below_may_lead_above() {
    let mut layers = Layers::of(vec![
        vec![file("data/kernel")],
        vec![symlink("boot/vmlinuz", "../data/kernel")],
        vec![file("data/kernel")],
    ]);
    layers.read = 2;
    assert_eq!(lead("/boot/vmlinuz", &mut layers), found(0, "data/kernel"));
}

#[test]
fn at_most_256_path_elements_are_evaluated() {
    let mut layers = Layers::of(vec![vec![symlink("a", "b"), symlink("b", "a"), file("f")]]);
    assert_eq!(lead("/a", &mut layers), Err("more than 256 path elements evaluated".to_owned()));
    let exactly = format!("{}f", "./".repeat(255));
    assert_eq!(lead(&exactly, &mut layers), found(0, "f"));
    let one_more = format!("{}f", "./".repeat(256));
    assert_eq!(lead(&one_more, &mut layers), Err("more than 256 path elements evaluated".to_owned()));
}

#[test]
fn paths_are_no_longer_than_those_of_linux() {
    // Symlinks that each put long names before those that are still to come.
    let names = format!("{}/", "N".repeat(255)).repeat(15);
    let mut records: Vec<EntryRecord> =
        (0..250).map(|at| symlink(&format!("l{at}"), &format!("l{}/{names}", at + 1))).collect();
    records.push(directory("l250"));
    let mut layers = Layers::of(vec![records]);
    assert_eq!(lead("/l0", &mut layers), Err("more than 4096 bytes of path evaluated".to_owned()));
    assert!(layers.question_bytes < 64 << 10, "{} bytes", layers.question_bytes);
    let mut layers = Layers::of(vec![vec![file("f")]]);
    assert_eq!(lead(&format!("{}f", "./".repeat(100) + &"/".repeat(5000)), &mut layers), found(0, "f"));
    let long = format!("/{}", "d/".repeat(200) + &"x".repeat(3700));
    assert_eq!(lead(&long, &mut layers), Err("more than 4096 bytes of path evaluated".to_owned()));
}

#[test]
fn what_may_be_asked_next_is_asked_in_small_portions() {
    let deep = "d/".repeat(200);
    let path = format!("{deep}f");
    let mut layers = Layers::of(vec![vec![file(&path)]]);
    assert_eq!(lead(&path, &mut layers), found(0, &path));
    // Of long names fewer are asked for at once.
    let long = format!("{}f", format!("{}/", "n".repeat(249)).repeat(16));
    let mut layers = Layers::of(vec![vec![file(&long)], vec![file("other")]]);
    layers.read = 0;
    assert!(lead(&long, &mut layers).unwrap_err().starts_with("needs layer 0 for "));
    assert!(layers.question_bytes < 20 << 10, "{} bytes", layers.question_bytes);
}

#[test]
fn near_misses_that_lie_below_no_directory_are_not_told() {
    for hiding in [file("boot"), symlink("boot", "efi")] {
        let mut layers = Layers::of(vec![vec![hiding.clone()], vec![file("boot/vmlinuz")]]);
        let mut near = NearMisses::new("/vmlinuz", "/vmlinuz");
        near.take(&file("boot/vmlinuz"));
        assert_eq!(near.finish(&mut layers).unwrap(), [""; 0], "{hiding:?}");
    }
}

#[test]
fn near_misses_too_deep_to_type_are_not_told() {
    let deep = format!("{}vmlinuz", "d/".repeat(64));
    let long = format!("{}/vmlinuz", "n".repeat(2000));
    let mut layers = Layers::of(vec![vec![file(&deep), file(&long), file("usr/vmlinuz")]]);
    let records = layers.records.clone();
    let mut near = NearMisses::new("/boot/vmlinuz", "/boot");
    records.iter().flatten().for_each(|record| near.take(record));
    assert_eq!(near.finish(&mut layers).unwrap(), ["/usr/vmlinuz"]);
}

#[test]
fn hard_links_lead_within_their_layer() {
    let hard_link = |path, target| entry(EntryKind::HardLink, path, target);
    let mut layers = Layers::of(vec![
        vec![
            hard_link("boot/a", "boot/b"),
            hard_link("boot/b", "boot/c"),
            file("boot/c"),
            hard_link("lost", "below"),
        ],
        vec![file("below")],
    ]);
    let Ok(Resolution::Found { layer, entry, resolved }) = resolve("/boot/a", &mut layers, 1) else {
        panic!("not found")
    };
    assert_eq!((layer, entry.path.as_slice(), resolved.as_slice()), (0, &b"boot/c"[..], &b"boot/a"[..]));
    assert_eq!(
        lead("/lost", &mut layers),
        Err("`/lost` is a hard link to `/below`, which is not in the same layer".to_owned())
    );
    let mut circle = Layers::of(vec![vec![hard_link("a", "b"), hard_link("b", "a")]]);
    assert!(lead("/a", &mut circle).unwrap_err().contains("is a hard link to"));
}

#[test]
fn what_is_no_usable_file_is_refused() {
    let large = EntryRecord { size_bytes: (1 << 20) + 1, ..file("large") };
    let fitting = EntryRecord { size_bytes: 1 << 20, ..file("fitting") };
    let mut layers = Layers::of(vec![vec![
        file("boot/vmlinuz"),
        entry(EntryKind::CharacterDevice, "dev/null", ""),
        entry(EntryKind::BlockDevice, "dev/sda", ""),
        entry(EntryKind::Fifo, "pipe", ""),
        entry(EntryKind::Sparse, "sparse", ""),
        large,
        fitting,
    ]]);
    let refusals = [
        ("/boot", "`/boot` is a directory in the image"),
        ("/", "`/` is a directory in the image"),
        ("", "`/` is a directory in the image"),
        ("/boot/vmlinuz/x", "`/boot/vmlinuz` is not a directory in the image"),
        ("/dev/null", "`/dev/null` is a character device in the image"),
        ("/dev/sda", "`/dev/sda` is a block device in the image"),
        ("/pipe", "`/pipe` is a named pipe in the image"),
        ("/sparse", "`/sparse` is stored as a sparse file, which is not supported"),
        ("/large", "`/large` has 1048577 bytes, more than 1048576"),
    ];
    for (path, message) in refusals {
        assert_eq!(lead(path, &mut layers), Err(message.to_owned()));
    }
    assert_eq!(lead("/fitting", &mut layers), found(0, "fitting"));
}

#[test]
fn near_misses_are_told_and_hidden_ones_are_not() {
    let mut layers = Layers::of(vec![
        vec![file("boot/vmlinuz-6.1"), whiteout("boot/vmlinuz-5.0"), file("boot/config-6.1")],
        vec![file("boot/vmlinuz-5.0"), file("usr/lib/linux/vmlinuz"), file("etc/passwd")],
    ]);
    let records = layers.records.clone();
    let similar = |requested: &str, missing: &str, layers: &mut Layers| {
        let mut near = NearMisses::new(requested, missing);
        records.iter().flatten().for_each(|record| near.take(record));
        near.finish(layers).unwrap()
    };
    assert_eq!(
        similar("/boot/vmlinuz", "/boot/vmlinuz", &mut layers),
        ["/usr/lib/linux/vmlinuz", "/boot/vmlinuz-6.1", "/boot/config-6.1"]
    );
    assert_eq!(similar("/bot/vmlinuz-6.1", "/bot", &mut layers)[0], "/boot/vmlinuz-6.1");
    let many: Vec<EntryRecord> = (0..40).map(|at| file(&format!("boot/vmlinuz-{at:02}"))).collect();
    let mut near = NearMisses::new("/boot/vmlinuz", "/boot/vmlinuz");
    many.iter().for_each(|record| near.take(record));
    let told = near.finish(&mut Layers::of(vec![many])).unwrap();
    assert_eq!(told.len(), 5);
    assert_eq!(told[0], "/boot/vmlinuz-00");
}

// The property: following a path over the layers gives what one gets by applying the layers to a tree and following it
// there. The tree is the plainest thing that can be written down.

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Directory(BTreeMap<String, Node>),
    Symlink(String),
    /// The layer that it came from.
    File(usize),
}

/// Applies one layer: first everything that it hides, then what it has.
fn apply(root: &mut BTreeMap<String, Node>, layer: usize, records: &[EntryRecord]) {
    for record in records {
        let path = String::from_utf8(record.path.clone()).unwrap();
        let elements: Vec<&str> = path.split('/').filter(|element| !element.is_empty()).collect();
        match record.kind {
            EntryKind::Whiteout => {
                let (name, parents) = elements.split_last().unwrap();
                if let Some(parent) = existing(root, parents) {
                    parent.remove(*name);
                }
            }
            EntryKind::Opaque => {
                if let Some(hidden) = existing(root, &elements) {
                    hidden.clear();
                }
            }
            _ => {}
        }
    }
    for record in records {
        let path = String::from_utf8(record.path.clone()).unwrap();
        let elements: Vec<&str> = path.split('/').filter(|element| !element.is_empty()).collect();
        match record.kind {
            // The name that the whiteout is filed under makes its directory.
            EntryKind::Whiteout => drop(made(root, &elements[..elements.len() - 1])),
            EntryKind::Opaque | EntryKind::Directory => drop(made(root, &elements)),
            kind => {
                let (name, parents) = elements.split_last().unwrap();
                let node = if kind == EntryKind::Symlink {
                    Node::Symlink(String::from_utf8(record.link.clone()).unwrap())
                } else {
                    Node::File(layer)
                };
                made(root, parents).insert((*name).to_owned(), node);
            }
        }
    }
}

fn existing<'a>(
    root: &'a mut BTreeMap<String, Node>,
    path: &[&str],
) -> Option<&'a mut BTreeMap<String, Node>> {
    path.iter().try_fold(root, |directory, name| match directory.get_mut(*name) {
        Some(Node::Directory(below)) => Some(below),
        _ => None,
    })
}

fn made<'a>(root: &'a mut BTreeMap<String, Node>, path: &[&str]) -> &'a mut BTreeMap<String, Node> {
    path.iter().fold(root, |directory, name| {
        let node = directory.entry((*name).to_owned()).or_insert_with(|| Node::Directory(BTreeMap::new()));
        if !matches!(node, Node::Directory(_)) {
            *node = Node::Directory(BTreeMap::new());
        }
        let Node::Directory(below) = node else { unreachable!("just made") };
        below
    })
}

/// Follows a path in the tree: layer of the file and where it is, or `None`.
fn walk(root: &BTreeMap<String, Node>, path: &str) -> Option<(usize, String)> {
    let mut remaining: VecDeque<String> = path.split('/').map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut evaluated = 0;
    while let Some(element) = remaining.pop_front() {
        if element.is_empty() {
            continue;
        }
        evaluated += 1;
        if evaluated > 256 {
            return None;
        }
        match element.as_str() {
            "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            _ => {}
        }
        let mut directory = root;
        for name in &at {
            let Some(Node::Directory(below)) = directory.get(name) else { panic!("lost at {at:?}") };
            directory = below;
        }
        match directory.get(&element)? {
            Node::Directory(_) => at.push(element),
            Node::Symlink(target) => {
                if target.starts_with('/') {
                    at.clear();
                }
                for element in target.split('/').rev() {
                    remaining.push_front(element.to_owned());
                }
            }
            Node::File(layer) => {
                at.push(element);
                return remaining.iter().all(|rest| rest.is_empty()).then(|| (*layer, at.join("/")));
            }
        }
    }
    None
}

/// Few names, so that paths meet.
fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn any_target() -> impl Strategy<Value = String> {
    let element = prop::sample::select(vec!["a", "b", "c", "..", "."]);
    (any::<bool>(), proptest::collection::vec(element, 1..4))
        .prop_map(|(is_absolute, names)| format!("{}{}", if is_absolute { "/" } else { "" }, names.join("/")))
}

fn any_record() -> impl Strategy<Value = EntryRecord> {
    prop_oneof![
        4 => any_path().prop_map(|path| file(&path)),
        2 => any_path().prop_map(|path| directory(&path)),
        3 => (any_path(), any_target()).prop_map(|(path, target)| symlink(&path, &target)),
        2 => any_path().prop_map(|path| whiteout(&path)),
        1 => any_path().prop_map(|path| opaque(&path)),
    ]
}

/// A layer as archivers write them: one entry for a name, and nothing below a name that is no directory.
fn any_layer() -> impl Strategy<Value = Vec<EntryRecord>> {
    proptest::collection::vec(any_record(), 0..6).prop_map(|records| {
        let mut kept: Vec<EntryRecord> = Vec::new();
        for record in records {
            let clashes = kept.iter().any(|other| {
                let is_below = |low: &EntryRecord, high: &EntryRecord| {
                    low.path.strip_prefix(&*high.path).is_some_and(|rest| rest.first() == Some(&b'/'))
                };
                let is_leaf =
                    |entry: &EntryRecord| matches!(entry.kind, EntryKind::File | EntryKind::Symlink);
                let hides =
                    |entry: &EntryRecord| matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque);
                let same = other.path == record.path && !(hides(other) ^ hides(&record));
                // An opaque marker is a file in the directory that it marks.
                let marks_a_leaf = other.path == record.path
                    && ((is_leaf(other) && record.kind == EntryKind::Opaque)
                        || (is_leaf(&record) && other.kind == EntryKind::Opaque));
                same || marks_a_leaf
                    || (is_below(&record, other) && is_leaf(other))
                    || (is_below(other, &record) && is_leaf(&record))
            });
            if !clashes {
                kept.push(record);
            }
        }
        kept
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn following_over_layers_is_following_in_the_applied_tree(
        bottom_up in proptest::collection::vec(any_layer(), 1..5),
        path in any_path(),
    ) {
        let mut root = BTreeMap::new();
        let count = bottom_up.len();
        for (at, records) in bottom_up.iter().enumerate() {
            apply(&mut root, count - 1 - at, records);
        }
        let expected = walk(&root, &path);
        let mut layers = Layers::of(bottom_up.into_iter().rev().collect());
        let answer = lead(&path, &mut layers);
        prop_assert_eq!(answer.clone().ok(), expected, "{:?}", answer);
        // Whatever was not asked does not matter: with those layers unread the answer is the same.
        layers.read = layers.asked.map_or(0, |lowest| lowest + 1);
        prop_assert_eq!(lead(&path, &mut layers), answer);
    }
}
