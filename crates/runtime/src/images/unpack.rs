//! Unpacking one layer into a directory, for use as a lower directory of overlayfs.
//!
//! The archive is not trusted. Every path is resolved inside the layer's directory by the kernel
//! (`openat2` with `RESOLVE_IN_ROOT`), so neither `..` nor a symbolic link leads out of it.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use sha2::{Digest, Sha256};
use tar::EntryType;

/// The start of names that say that something below is to be hidden.
const WHITEOUT: &[u8] = b".wh.";
/// The name that says that all of a directory below is to be hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How much of an archive is read at once.
const BUFFER: usize = 64 * 1024;

/// What was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The digest of the uncompressed archive, `sha256:…`.
    pub(crate) diff_id: String,
    /// The bytes of all files.
    pub(crate) size: u64,
}

/// Returns a reader of the plain archive, whatever of gzip, zstd or nothing it was compressed with.
pub(crate) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0u8; 4];
    let mut have = 0;
    while have < magic.len() {
        match reader.read(&mut magic[have..])? {
            0 => break,
            count => have += count,
        }
    }
    let whole = io::Cursor::new(magic).take(have as u64).chain(reader);
    Ok(match &magic[..have] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(BUFFER, whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Unpacks the plain archive `reader` into the empty directory `root`.
///
/// Devices in the archive are left out: containers get theirs from the engine, and a node's directory of images
/// is no place for them.
pub(crate) fn unpack(reader: impl Read, root: &Path) -> io::Result<Unpacked> {
    let root = fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut layer =
        Layer { root, owners: rustix::process::geteuid().is_root(), size: 0, directories: Vec::new() };
    let mut reader = Hashing { inner: reader, hash: Sha256::new() };
    let mut archive = tar::Archive::new(&mut reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        layer.entry(&mut entry, &path).map_err(|error| {
            io::Error::new(error.kind(), format!("{} in the layer: {error}", path.display()))
        })?;
    }
    // Times of directories come last, since making what is in them changes them.
    for (path, time) in std::mem::take(&mut layer.directories).into_iter().rev() {
        if let Some((parent, name)) = layer.locate(&path)? {
            set_time(&parent, &name, time)?;
        }
    }
    // What follows the archive's end belongs to the digest, too.
    io::copy(&mut reader, &mut io::sink())?;
    Ok(Unpacked { diff_id: format!("sha256:{}", hex(&reader.hash.finalize())), size: layer.size })
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// A reader that hashes what passes through it.
pub(crate) struct Hashing<R> {
    pub(crate) inner: R,
    pub(crate) hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

struct Layer {
    root: OwnedFd,
    /// Whether this process may give files away.
    owners: bool,
    size: u64,
    directories: Vec<(PathBuf, i64)>,
}

impl Layer {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::Char | EntryType::Block) {
            return Ok(());
        }
        let path = inside(path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root directory itself.
            let mode = entry.header().mode()?;
            let root = fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            fs::fchmod(&root, Mode::from_raw_mode(mode & 0o7777))?;
            return Ok(());
        };
        let parent = self.parent(&path)?;
        if name.as_bytes() == OPAQUE {
            let directory = fs::openat(
                &parent,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            fs::fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if hidden.starts_with(WHITEOUT) || hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Ok(());
            }
            let hidden = OsStr::from_bytes(hidden);
            remove(&parent, hidden)?;
            fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?;
            return Ok(());
        }
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        let time = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
        match kind {
            EntryType::Directory => {
                match fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                    Err(rustix::io::Errno::EXIST) if !is_directory(&parent, &name)? => {
                        remove(&parent, &name)?;
                        fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
                    }
                    Err(rustix::io::Errno::EXIST) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                }
                self.directories.push((path.clone(), time));
            }
            EntryType::Symlink => {
                let target = link_name(entry)?;
                remove(&parent, &name)?;
                fs::symlinkat(target.as_os_str(), &parent, &name)?;
            }
            EntryType::Link => {
                let target = inside(&link_name(entry)?)?;
                let Some((from, old)) = self.locate(&target)? else {
                    return Err(io::Error::other("a hard link to the root directory"));
                };
                remove(&parent, &name)?;
                // The link shares the target's owner, mode and times.
                return Ok(fs::linkat(&from, &old, &parent, &name, AtFlags::empty())?);
            }
            EntryType::Fifo => {
                remove(&parent, &name)?;
                fs::mknodat(&parent, &name, FileType::Fifo, mode, 0)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&parent, &name)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file =
                    std::fs::File::from(fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o600))?);
                let mut buffer = [0u8; BUFFER];
                loop {
                    let count = entry.read(&mut buffer)?;
                    if count == 0 {
                        break;
                    }
                    file.write_all(&buffer[..count])?;
                    self.size += count as u64;
                }
            }
            other => return Err(io::Error::other(format!("an entry of the unknown kind {other:?}"))),
        }
        self.metadata(entry, &parent, &name, mode, time)
    }

    fn metadata<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        parent: &OwnedFd,
        name: &OsStr,
        mode: Mode,
        time: i64,
    ) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if self.owners {
            // Some programs leave the fields empty, which means root.
            let number = |id: io::Result<u64>| {
                u32::try_from(id.unwrap_or(0)).map_err(|_| io::Error::other("an owner out of range"))
            };
            let user = rustix::fs::Uid::from_raw(number(entry.header().uid())?);
            let group = rustix::fs::Gid::from_raw(number(entry.header().gid())?);
            fs::chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind == EntryType::Symlink {
            return set_time(parent, name, time);
        }
        // After the owner, since giving a file away takes its set-user-id bit.
        fs::chmodat(parent, name, mode, AtFlags::empty())?;
        if kind != EntryType::Fifo {
            let attributes = extended_attributes(entry)?;
            if !attributes.is_empty() {
                let file = fs::openat(
                    parent,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                for (attribute, value) in attributes {
                    match fs::fsetxattr(&file, attribute.as_str(), &value, XattrFlags::empty()) {
                        // A file system or a user that cannot keep it: the file works without.
                        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        if kind != EntryType::Directory {
            set_time(parent, name, time)?;
        }
        Ok(())
    }

    /// Opens the directory that `path` is in, making what is missing on the way.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.open_directory(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let mut so_far = PathBuf::new();
        for component in parent.components() {
            let above = self.open_directory(&so_far)?;
            match fs::mkdirat(&above, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            so_far.push(component);
        }
        self.open_directory(parent)
    }

    fn locate(&self, path: &Path) -> io::Result<Option<(OwnedFd, std::ffi::OsString)>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        Ok(Some((self.open_directory(path.parent().unwrap_or(Path::new("")))?, name.to_owned())))
    }

    fn open_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?)
    }
}

/// Returns `path` without what would lead out of the layer at first sight; links are the kernel's part.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("the path has a .. in it"));
            }
        }
    }
    Ok(clean)
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<PathBuf> {
    Ok(entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?.into_owned())
}

/// Returns the extended attributes that containers may have. Those of overlayfs are not among them: they would
/// let an image redirect paths on the node.
fn extended_attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut attributes = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Ok(key) = extension.key()
            && let Some(attribute) = key.strip_prefix("SCHILY.xattr.")
            && (attribute == "security.capability" || attribute.starts_with("user."))
            && !attribute.starts_with("user.overlay.")
        {
            attributes.push((attribute.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(attributes)
}

fn set_time(parent: &OwnedFd, name: &OsStr, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn is_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Removes what an earlier entry of the same layer put at this name, if anything.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = fs::openat(parent, name, flags, Mode::empty())?;
            empty(directory.as_fd())?;
            Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn empty(directory: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    let own = directory.try_clone_to_owned()?;
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            remove(&own, name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header
    }

    /// Writes a path as it is; the crate's own setters refuse the bad ones.
    fn raw(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, data: &[u8]) {
        let mut header = header(kind, 0o644, data.len());
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    #[test]
    fn an_archive_can_not_write_outside_its_layer() {
        let outside = tempfile::tempdir().unwrap();
        let cases: [&[(EntryType, &str, &str)]; 5] = [
            &[(EntryType::Regular, "../escaped", "")],
            &[(EntryType::Regular, "a/../../escaped", "")],
            &[(EntryType::Symlink, "out", "OUTSIDE"), (EntryType::Regular, "out/escaped", "")],
            &[(EntryType::Symlink, "out", "../../../../../../tmp"), (EntryType::Regular, "out/escaped", "")],
            &[(EntryType::Link, "stolen", "../../../../../../etc/passwd")],
        ];
        for entries in cases {
            let root = tempfile::tempdir().unwrap();
            let mut builder = tar::Builder::new(Vec::new());
            for (kind, path, link) in entries {
                let link = link.replace("OUTSIDE", outside.path().to_str().unwrap());
                raw(&mut builder, *kind, path, &link, if kind.is_file() { b"x" } else { b"" });
            }
            let archive = builder.into_inner().unwrap();
            // Refused, or kept inside; either will do.
            if let Err(error) = unpack(archive.as_slice(), root.path()) {
                assert!(error.to_string().contains("in the layer"), "{error}");
            }
            assert!(!outside.path().join("escaped").exists(), "{entries:?}");
            assert!(!root.path().parent().unwrap().join("escaped").exists(), "{entries:?}");
            assert!(!Path::new("/tmp/escaped").exists(), "{entries:?}");
        }
    }

    #[test]
    fn files_links_modes_and_times_come_out_as_they_went_in() {
        let root = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut file = header(EntryType::Regular, 0o4755, 5);
        builder.append_data(&mut file, "bin/tool", &b"hello"[..]).unwrap();
        let mut link = header(EntryType::Symlink, 0o777, 0);
        builder.append_link(&mut link, "sbin", "/bin").unwrap();
        let mut hard = header(EntryType::Link, 0o755, 0);
        builder.append_link(&mut hard, "sbin/same", "bin/tool").unwrap();
        let mut again = header(EntryType::Regular, 0o600, 3);
        builder.append_data(&mut again, "etc/x", &b"old"[..]).unwrap();
        let mut again = header(EntryType::Regular, 0o600, 3);
        builder.append_data(&mut again, "etc/x", &b"new"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        let unpacked = unpack(archive.as_slice(), root.path()).unwrap();
        assert_eq!(unpacked.diff_id, format!("sha256:{}", hex(&Sha256::digest(&archive))));
        assert_eq!(unpacked.size, 11);
        let tool = std::fs::metadata(root.path().join("bin/tool")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((tool.mode() & 0o7777, tool.nlink(), tool.mtime()), (0o4755, 2, 1_000_000));
        assert!(root.path().join("bin/same").exists(), "written through the link, inside the layer");
        assert_eq!(std::fs::read(root.path().join("etc/x")).unwrap(), b"new");
    }

    #[test]
    fn devices_are_left_out_and_attributes_of_overlayfs_are_not_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        raw(&mut builder, EntryType::Char, "dev/mem", "", b"");
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..]),
                ("SCHILY.xattr.user.note", &b"kept"[..]),
            ])
            .unwrap();
        let mut file = header(EntryType::Regular, 0o644, 1);
        builder.append_data(&mut file, "x", &b"x"[..]).unwrap();
        unpack(builder.into_inner().unwrap().as_slice(), root.path()).unwrap();
        assert!(!root.path().join("dev/mem").exists());
        let mut value = [0u8; 16];
        assert!(fs::getxattr(root.path().join("x"), "trusted.overlay.redirect", &mut value).is_err());
    }

    #[test]
    fn every_compression_is_recognised() {
        let plain = b"some text that is long enough to be compressed".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for compressed in
            [plain.clone(), gzip.finish().unwrap(), zstd::stream::encode_all(plain.as_slice(), 1).unwrap()]
        {
            let mut out = Vec::new();
            decompress(compressed.as_slice()).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, plain);
        }
        let mut short = Vec::new();
        decompress(&b"ab"[..]).unwrap().read_to_end(&mut short).unwrap();
        assert_eq!(short, b"ab");
    }

    #[test]
    fn a_whiteout_hides_what_is_below() {
        if !rustix::process::geteuid().is_root() {
            // Making the overlay's marks is for root alone; the tests with containers cover it there.
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        raw(&mut builder, EntryType::Regular, "etc/.wh.passwd", "", b"");
        raw(&mut builder, EntryType::Regular, "var/.wh..wh..opq", "", b"");
        unpack(builder.into_inner().unwrap().as_slice(), root.path()).unwrap();
        let stat = fs::lstat(root.path().join("etc/passwd")).unwrap();
        assert_eq!((FileType::from_raw_mode(stat.st_mode), stat.st_rdev), (FileType::CharacterDevice, 0));
        let mut value = [0u8; 4];
        let length = fs::getxattr(root.path().join("var"), "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..length], b"y");
    }
}
