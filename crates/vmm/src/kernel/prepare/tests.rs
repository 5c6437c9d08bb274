#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use super::super::{Architecture, KernelFormat, Wrapping};
use super::*;

/// The smallest bzImage: one setup sector, one paragraph of code, and padding that does not compress away.
fn bz_image(mark: u8) -> Vec<u8> {
    let mut image = vec![mark; 200_000];
    image[0x1f1..0x1f9].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0]);
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    image[0x20e..0x210].copy_from_slice(&[0x00, 0x01]);
    image[0x236..0x238].copy_from_slice(&[1, 0]);
    image[0x300..0x307].copy_from_slice(b"6.1.2 x");
    image[0x307] = 0;
    image
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A directory with a wrapped kernel, the kernel, and where it is to be unpacked.
fn wrapped() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinuz.gz");
    fs::write(&path, gzip(&bz_image(1))).unwrap();
    let out = directory.path().join("out");
    (directory, path, out)
}

fn names(directory: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_kernel_that_qemu_takes_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinuz");
    fs::write(&path, bz_image(1)).unwrap();
    let out = directory.path().join("out");
    let prepared = prepare(&path, &out, EntryChoice::AsGiven).unwrap();
    assert_eq!((&prepared.path, prepared.unwrapped), (&path, false));
    assert!(!out.exists());
}

#[test]
fn a_wrapped_kernel_is_unpacked_once_and_again_when_it_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinuz.gz");
    fs::write(&path, gzip(&bz_image(1))).unwrap();
    let out = directory.path().join("a/b");
    let first = prepare(&path, &out, EntryChoice::AsGiven).unwrap();
    let expected = KernelInfo {
        format: KernelFormat::BzImage,
        wrappings: vec![Wrapping::Gzip],
        architecture: Architecture::X86_64,
        version: Some("6.1.2".to_owned()),
        banner: Some("6.1.2 x".to_owned()),
    };
    let entry = KernelEntry::BzImage;
    assert_eq!(first, PreparedKernel { path: first.path.clone(), info: expected, unwrapped: true, entry });
    assert_eq!(fs::read(&first.path).unwrap(), bz_image(1));
    assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o7777, 0o444);
    assert_eq!(names(&out), BTreeSet::from([first.path.clone(), first.path.with_extension("json")]));

    let made = fs::metadata(&first.path).unwrap().ino();
    assert_eq!(prepare(&path, &out, EntryChoice::AsGiven).unwrap(), first);
    assert_eq!(fs::metadata(&first.path).unwrap().ino(), made, "it is used again");

    let renamed = directory.path().join("other");
    fs::write(&renamed, gzip(&bz_image(2))).unwrap();
    fs::rename(&renamed, &path).unwrap();
    let second = prepare(&path, &out, EntryChoice::AsGiven).unwrap();
    assert_ne!(second.path, first.path);
    assert_eq!(fs::read(&second.path).unwrap(), bz_image(2));
}

#[test]
fn what_is_kept_is_only_used_while_it_is_whole() {
    let (_directory, path, out) = wrapped();
    let kept = prepare(&path, &out, EntryChoice::AsGiven).unwrap().path;
    let damages: [&dyn Fn(); 6] = [
        &|| fs::remove_file(&kept).unwrap(),
        &|| fs::remove_file(kept.with_extension("json")).unwrap(),
        &|| fs::write(kept.with_extension("json"), "{").unwrap(),
        &|| {
            fs::remove_file(&kept).unwrap();
            fs::write(&kept, b"half").unwrap();
            fs::set_permissions(&kept, Permissions::from_mode(0o444)).unwrap();
        },
        &|| fs::set_permissions(&kept, Permissions::from_mode(0o600)).unwrap(),
        &|| {
            let mut bytes = fs::read(&kept).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::remove_file(&kept).unwrap();
            fs::write(&kept, bytes).unwrap();
            fs::set_permissions(&kept, Permissions::from_mode(0o444)).unwrap();
        },
    ];
    for (index, damage) in damages.iter().enumerate() {
        // The record's file is read-only, as the kernel is.
        fs::set_permissions(kept.with_extension("json"), Permissions::from_mode(0o644)).unwrap();
        damage();
        let again = prepare(&path, &out, EntryChoice::AsGiven).unwrap();
        assert_eq!(again.path, kept, "{index}");
        assert_eq!(fs::read(&again.path).unwrap(), bz_image(1), "{index}");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o444, "{index}");
    }
}

#[test]
fn what_was_found_intact_is_read_again_only_when_it_changed() {
    let (_directory, path, out) = wrapped();
    let prepare = || prepare(&path, &out, EntryChoice::AsGiven).unwrap().path;
    let kept = prepare();
    let inode = || fs::metadata(&kept).unwrap().ino();
    let made = inode();
    prepare();
    // Whoever reads all of the file from here on finds that it is not what the record says.
    let record = kept.with_extension("json");
    let mut wrong: Record = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    assert!(wrong.intact.is_some());
    wrong.crc32 ^= 1;
    write_record(&record, &wrong).unwrap();
    prepare();
    assert_eq!(inode(), made, "it is not read again");

    wrong.intact.as_mut().unwrap().boot_id = "another".to_owned();
    write_record(&record, &wrong).unwrap();
    prepare();
    let again = inode();
    assert_ne!(again, made, "the host was started meanwhile");

    prepare();
    fs::set_permissions(&kept, Permissions::from_mode(0o644)).unwrap();
    fs::write(&kept, bz_image(2)).unwrap();
    fs::set_permissions(&kept, Permissions::from_mode(0o444)).unwrap();
    prepare();
    assert_eq!(fs::read(&kept).unwrap(), bz_image(1), "it was written to");
}

#[test]
fn many_unused_kernels_are_removed_and_used_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    fs::create_dir(&out).unwrap();
    let old = SystemTime::now() - 2 * UNUSED_FOR;
    let place = |name: &str, used: SystemTime| {
        let path = out.join(name);
        File::create(&path).unwrap().set_modified(used).unwrap();
        path
    };
    let mut kept = BTreeSet::new();
    for number in 0..u32::try_from(KEPT).unwrap() + 3 {
        let used = old + Duration::from_secs(u64::from(number));
        let path = place(&format!("{number}.kernel"), used);
        let record = place(&format!("{number}.json"), used);
        if number >= 4 {
            kept.extend([path, record]); // the others and the new one make too many
        }
    }
    place(".tmp-1-0", old);
    kept.insert(place(".tmp-1-1", SystemTime::now()));
    let path = directory.path().join("vmlinuz.gz");
    fs::write(&path, gzip(&bz_image(1))).unwrap();
    let new = prepare(&path, &out, EntryChoice::AsGiven).unwrap().path;
    kept.extend([new.with_extension("json"), new]);
    assert_eq!(names(&out), kept);
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinuz.gz");
    fs::write(&path, gzip(&bz_image(1))).unwrap();
    let error = prepare(&path, &path.join("out"), EntryChoice::AsGiven).unwrap_err();
    let expected = format!("cannot write the unpacked kernel to `{}/out`", path.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn several_at_once_get_the_same_whole_kernel() {
    let (_directory, path, out) = wrapped();
    let kept = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let kept = prepare(&path, &out, EntryChoice::AsGiven).unwrap().path;
                    assert!(fs::read(&kept).unwrap() == bz_image(1));
                    kept
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<BTreeSet<_>>()
    });
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(names(&out).len(), 2, "nothing temporary is left");
}
