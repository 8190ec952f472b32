//! Where the dynamic loader looks for a library: ld.so(8).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders with $ORIGIN and $LIB put in; $LIB is both of its usual values.
pub fn expand(folders: &[String], origin: &Path) -> Vec<PathBuf> {
    let origin = origin.to_string_lossy();
    let mut expanded = Vec::new();
    for folder in folders.iter().filter(|f| !f.is_empty()) {
        let folder = folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin);
        if folder.contains("$LIB") || folder.contains("${LIB}") {
            for lib in ["lib/x86_64-linux-gnu", "lib64"] {
                expanded.push(folder.replace("${LIB}", lib).replace("$LIB", lib).into());
            }
        } else {
            expanded.push(folder.into());
        }
    }
    expanded
}

/// The folders of LD_LIBRARY_PATH.
pub fn library_path() -> Vec<PathBuf> {
    let list = env::var("LD_LIBRARY_PATH").unwrap_or_default();
    list.split([':', ';']).filter(|f| !f.is_empty()).map(PathBuf::from).collect()
}

/// `/etc/ld.so.cache`: file name to path.
pub struct LoaderCache(Vec<(String, PathBuf)>);

/// Where the loader looks last.
const DEFAULT_FOLDERS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

impl LoaderCache {
    /// Reads it; empty where there is none.
    pub fn read() -> Self {
        let bytes = fs::read("/etc/ld.so.cache").unwrap_or_default();
        LoaderCache(Self::parse(&bytes).unwrap_or_default())
    }

    /// One that is in memory.
    #[cfg(feature = "fuzzing")]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        LoaderCache(Self::parse(bytes).unwrap_or_default())
    }

    /// The format of glibc 2.2 and later (sysdeps/generic/dl-cache.h): a 48-byte header, 24-byte
    /// entries, string offsets from the start of the header. An older-format table may come first.
    fn parse(bytes: &[u8]) -> Option<Vec<(String, PathBuf)>> {
        const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
        /// Flags of an entry: 64-bit x86 library for glibc.
        const X86_64: u32 = 0x0300;
        let start = bytes.windows(MAGIC.len()).position(|w| w == MAGIC)?;
        let bytes = &bytes[start..];
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let text_at = |at: u32| {
            let tail = bytes.get(at as usize..)?;
            let end = tail.iter().position(|&b| b == 0)?;
            Some(String::from_utf8_lossy(&tail[..end]).into_owned())
        };
        let count = u32_at(20)? as usize;
        let mut found = Vec::new();
        for i in 0..count {
            let at = 48 + i * 24;
            if u32_at(at)? & 0xff00 == X86_64 {
                found.push((text_at(u32_at(at + 4)?)?, text_at(u32_at(at + 8)?)?.into()));
            }
        }
        Some(found)
    }

    /// The file of that name: in `folders`, in the cache, or in the default folders.
    pub fn find(&self, name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
        folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .or_else(|| self.0.iter().find(|(n, p)| n == name && p.is_file()).map(|(_, path)| path.clone()))
            .or_else(|| DEFAULT_FOLDERS.iter().map(|f| Path::new(f).join(name)).find(|p| p.is_file()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_and_lib_are_put_into_folders() {
        let folders =
            expand(&["$ORIGIN/../lib".into(), "${ORIGIN}".into(), "/a/$LIB".into(), String::new()], Path::new("/o"));
        let expected: Vec<PathBuf> =
            ["/o/../lib", "/o", "/a/lib/x86_64-linux-gnu", "/a/lib64"].map(PathBuf::from).into();
        assert_eq!(folders, expected);
    }

    #[test]
    fn the_loader_cache_is_parsed_and_damage_is_survived() {
        let mut bytes = b"glibc-ld.so.cache1.1".to_vec();
        bytes.extend(2u32.to_le_bytes());
        bytes.resize(48, 0);
        let strings = 48 + 2 * 24;
        for (flags, key, value) in [(0x0303u32, 0u32, 5u32), (0x0803, 0, 5)] {
            for v in [flags, strings + key, strings + value, 0, 0, 0] {
                bytes.extend(v.to_le_bytes());
            }
        }
        bytes.extend(b"a.so\0/x/a.so\0");
        assert_eq!(LoaderCache::parse(&bytes).unwrap(), [("a.so".into(), PathBuf::from("/x/a.so"))]);
        assert!(LoaderCache::parse(&bytes[..60]).is_none());
        assert!(LoaderCache::parse(b"").is_none());
    }
}
