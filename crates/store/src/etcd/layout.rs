//! Where a cluster's keys are in etcd: `PREFIX/registry/...`, as they are named above. Beside them, where no
//! range of keys reaches, `PREFIX#owner` says whose they are and `PREFIX#mark` is what watches wait for.

use std::sync::Arc;

use super::proto::KeyValue;
use super::wire::unsigned;
use crate::{Entry, Error, Result};

/// A cluster's place in etcd.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: Arc<str>,
}

impl Layout {
    /// # Errors
    /// When `prefix` is not one segment of a path: two clusters could come to lie within each other.
    pub(super) fn new(prefix: &str) -> Result<Self> {
        let segment = prefix.strip_prefix('/').unwrap_or_default();
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if segment.is_empty() || segment.len() > 253 || !segment.chars().all(fine) {
            return Err(Error::Refused(format!(
                "the etcd prefix {prefix:?} is not usable: it is '/' and a name of letters, digits, '-', '_' and '.', \
                 such as \"/my-cluster\""
            )));
        }
        Ok(Self { prefix: prefix.into() })
    }

    /// Returns where `key` is in etcd.
    pub(super) fn path(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    /// Returns the key that says whose the prefix is.
    pub(super) fn owner(&self) -> Vec<u8> {
        self.path("#owner")
    }

    /// Returns the key that is written to see how far a watch is.
    pub(super) fn mark(&self) -> Vec<u8> {
        self.path("#mark")
    }

    /// Returns the range of everything, owner and mark included: `#` sorts before `/`, and `0` is next after it.
    pub(super) fn everything(&self) -> (Vec<u8>, Vec<u8>) {
        (self.path("#"), self.path("0"))
    }

    /// Returns the range of the keys that begin with `prefix` and come after `after`.
    pub(super) fn range(&self, prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
        // Only what begins with a slash is a key of the cluster.
        let prefix = if prefix.is_empty() { "/" } else { prefix };
        let start = self.path(prefix);
        let mut end = start.clone();
        // A byte of UTF-8 is never 0xff, so the last one can always be counted up.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let behind = after.map(|after| [&self.path(after)[..], b"\0"].concat());
        (behind.map_or(start.clone(), |behind| behind.max(start)), end)
    }

    /// Returns what etcd holds as an entry; `None` when it is not one of this cluster's.
    pub(super) fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        let key = std::str::from_utf8(&kv.key).ok()?.strip_prefix(&*self.prefix)?;
        key.starts_with('/').then(|| Entry {
            key: key.into(),
            value: kv.value.clone(),
            create_revision: unsigned(kv.create_revision),
            mod_revision: unsigned(kv.mod_revision),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_one_segment() {
        for good in ["/a", "/my-cluster", "/x.y_z"] {
            assert!(Layout::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "/a/", "/a/b", "/a#b", "//a", "/ä"] {
            assert!(matches!(Layout::new(bad), Err(Error::Refused(_))), "{bad}");
        }
    }

    #[test]
    fn ranges_reach_the_keys_and_nothing_beside_them() {
        let layout = Layout::new("/c").unwrap();
        let within = |(from, to): &(Vec<u8>, Vec<u8>), key: &str| {
            from.as_slice() <= key.as_bytes() && to.as_slice() > key.as_bytes()
        };
        let keys = layout.range("/", None);
        for (key, expected) in [
            ("/c/registry/pods/a", true),
            ("/c#owner", false),
            ("/c#mark", false),
            ("/c0", false),
            ("/cc/x", false),
        ] {
            assert_eq!(within(&keys, key), expected, "{key}");
        }
        let everything = layout.everything();
        for (key, expected) in
            [("/c/registry", true), ("/c#owner", true), ("/c0", false), ("/cc#owner", false)]
        {
            assert_eq!(within(&everything, key), expected, "{key}");
        }
        let rest = layout.range("/p/", Some("/p/b"));
        assert!(!within(&rest, "/c/p/b") && within(&rest, "/c/p/b/x") && within(&rest, "/c/p/c"));
        assert_eq!(layout.range("/p/", Some("/a")).0, layout.path("/p/"));
    }
}
