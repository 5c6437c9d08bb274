//! KubeVirt's rule for the path of a file inside an image: absolute, and already clean.

use super::cause::{Causes, Path};

/// Adds the fault of `path`, if any, under `field`. An empty path is for the caller to judge.
pub(super) fn check(path: &str, field: &Path, causes: &mut Causes) {
    if path == "/" {
        causes.invalid(field, format!("{field} must not point to root"));
    } else if !is_clean_absolute(path) {
        causes.invalid(
            field,
            format!("{field} must be an absolute path to a file without relative components"),
        );
    }
}

/// Whether `path`, less one trailing slash, is what cleaning `/` + `path` gives. (So `//` passes, as in KubeVirt.)
fn is_clean_absolute(path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path) == clean_absolute(path)
}

/// The shortest path lexically equal to `/` + `path`: no empty, `.` or `..` component, no trailing slash.
fn clean_absolute(path: &str) -> String {
    let mut components = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_of_the_rule() {
        let root = "f must not point to root";
        let relative = "f must be an absolute path to a file without relative components";
        let table = [
            ("/boot/vmlinuz", None),
            ("/boot/vmlinuz/", None),
            ("/..foo", None),
            ("/a/.b", None),
            ("/a/...", None),
            ("/ ", None),
            ("/é\u{7f}", None),
            ("//", None),
            ("/", Some(root)),
            ("boot/vmlinuz", Some(relative)),
            ("./vmlinuz", Some(relative)),
            ("..", Some(relative)),
            (".", Some(relative)),
            ("/..", Some(relative)),
            ("/boot/../x", Some(relative)),
            ("/a/./b", Some(relative)),
            ("/a/.", Some(relative)),
            ("/a//b", Some(relative)),
            ("//a", Some(relative)),
            ("/a//", Some(relative)),
            ("///", Some(relative)),
            (" /a", Some(relative)),
        ];
        for (path, message) in table {
            let mut causes = Causes::default();
            check(path, &Path::root("f"), &mut causes);
            let messages: Vec<String> = causes.into_vec().into_iter().map(|cause| cause.message).collect();
            assert_eq!(messages.first().map(String::as_str), message, "`{path}`");
        }
    }

    proptest! {
        /// Against a rule written as a search for what is forbidden, with no cleaning in it.
        #[test]
        fn agrees_with_a_search_for_forbidden_parts(path in "[a./]{0,9}") {
            let body = path.strip_suffix('/').unwrap_or(&path);
            let padded = format!("{body}/");
            let forbidden = ["//", "/./", "/../"].iter().any(|part| padded.contains(part));
            let model = body == "/" || (body.starts_with('/') && !forbidden);
            prop_assert_eq!(is_clean_absolute(&path), model);
        }

        #[test]
        fn cleaning_twice_changes_nothing(path in "[ab./]{0,12}") {
            let clean = clean_absolute(&path);
            prop_assert_eq!(clean_absolute(&clean), clean);
        }
    }
}
