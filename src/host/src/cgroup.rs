//! The control groups around this process.

use std::path::{Path, PathBuf};

use crate::proc::{exists, read_text};

/// The two kinds of control groups, whose files have other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A tree for each controller, below `/sys/fs/cgroup/CONTROLLER`.
    One,
    /// One tree, below `/sys/fs/cgroup` or, beside trees of version 1, `/sys/fs/cgroup/unified`.
    Two,
}

/// Folders of the groups around this process that may hold files of `controller`, innermost first. `root` is `/` but in tests.
///
/// A limit of any group around the process holds as well. In a container the path may be the host's, of which only
/// the root is to be seen here: some of the folders need not exist.
#[must_use]
pub fn around_this_process(root: &Path, controller: &str) -> Vec<(PathBuf, Version)> {
    let own = read_text(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, version) = match controllers {
            "" => {
                let beside = root.join("sys/fs/cgroup/unified");
                (if exists(&beside) { beside } else { root.join("sys/fs/cgroup") }, Version::Two)
            }
            list if list.split(',').any(|name| name == controller) => {
                (root.join("sys/fs/cgroup").join(controller), Version::One)
            }
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        groups.extend(group.ancestors().map(|group| (mount.join(group), version)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_around_the_process_is_listed_from_the_innermost_on() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        std::fs::write(root.join("proc/self/cgroup"), "9:cpuset:/x\n4:cpu,cpuacct:/docker/1\n0::/a\n").unwrap();
        let folders = |controller| {
            let groups = around_this_process(root, controller);
            let show = |(path, version): (PathBuf, Version)| {
                (path.strip_prefix(root).unwrap().to_string_lossy().trim_end_matches('/').to_owned(), version)
            };
            groups.into_iter().map(show).collect::<Vec<_>>()
        };
        let one = |path: &str| (path.to_owned(), Version::One);
        let two = |path: &str| (path.to_owned(), Version::Two);
        assert_eq!(
            folders("cpu"),
            [
                one("sys/fs/cgroup/cpu/docker/1"),
                one("sys/fs/cgroup/cpu/docker"),
                one("sys/fs/cgroup/cpu"),
                two("sys/fs/cgroup/a"),
                two("sys/fs/cgroup"),
            ]
        );
        std::fs::create_dir_all(root.join("sys/fs/cgroup/unified")).unwrap();
        assert_eq!(folders("memory"), [two("sys/fs/cgroup/unified/a"), two("sys/fs/cgroup/unified")]);
        assert!(around_this_process(Path::new("/nowhere"), "cpu").is_empty());
    }
}
