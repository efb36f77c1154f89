//! A model of a disk, made of a process's system calls as strace shows them.
//!
//! POSIX promises little, and the model no more: a file has what it had when it was last synced, and a name is there
//! once its directory was synced. Writes that were not synced may each be there, be missing, or be there in some of
//! their sectors; names that were not synced come in the order in which they were made.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use machinery::names::Random;

/// What changes files, or tells which file a descriptor is. A call that is not known here and changes files would
/// show as a picture that differs from the directory itself; see the test.
pub(crate) const TRACED: &str = "openat,open,creat,close,write,pwrite64,writev,pwritev,lseek,ftruncate,truncate,fallocate,\
                                 fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,\
                                 link,linkat,symlink,copy_file_range,sendfile,dup,dup2,dup3,fcntl";

const SECTOR: usize = 512;

/// What a system call did, in the order in which they ended.
#[derive(Debug)]
pub(crate) enum Step {
    Created {
        path: PathBuf,
        file: usize,
        directory: bool,
    },
    Wrote {
        file: usize,
        at: usize,
        bytes: Vec<u8>,
    },
    Length {
        file: usize,
        bytes: usize,
    },
    /// A sync began here; what it covers is what was written by now.
    Syncing {
        call: usize,
        what: Target,
    },
    Synced {
        call: usize,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    Removed {
        path: PathBuf,
    },
    /// The process wrote this to its standard output.
    Said(String),
}

impl Step {
    pub(crate) fn is_rare(&self) -> bool {
        matches!(
            self,
            Self::Created { .. } | Self::Renamed { .. } | Self::Removed { .. } | Self::Length { .. }
        )
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Target {
    File(usize),
    Directory(PathBuf),
}

/// What a descriptor of the process is.
#[derive(Debug, Clone)]
struct Open {
    target: Target,
    append: bool,
    at: usize,
}

/// Reads a trace; only what is in `root` and the standard output matters.
pub(crate) fn steps(trace: &str, root: &Path) -> Vec<Step> {
    let mut reader = Reader {
        root,
        open: HashMap::new(),
        names: HashMap::new(),
        lengths: Vec::new(),
        steps: Vec::new(),
        calls: 0,
    };
    let mut unfinished: HashMap<&str, (String, Option<usize>)> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            let call = reader.begin(head);
            unfinished.insert(thread, (head.trim_end().to_owned(), call));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (head, call) = unfinished.remove(thread).expect("a call that was begun");
            let tail = resumed.split_once("resumed>").expect("strace's words").1;
            reader.end(&format!("{head}{tail}"), call);
        } else if rest.contains('(') {
            let call = reader.begin(rest);
            reader.end(rest, call);
        }
    }
    reader.steps
}

struct Reader<'a> {
    root: &'a Path,
    open: HashMap<i64, Open>,
    names: HashMap<PathBuf, usize>,
    /// Of each file.
    lengths: Vec<usize>,
    steps: Vec<Step>,
    calls: usize,
}

impl Reader<'_> {
    /// Notes a sync that begins, and what is said: whoever reads it knows it by then.
    fn begin(&mut self, call: &str) -> Option<usize> {
        let (name, arguments) = call.split_once('(')?;
        match name {
            "fsync" | "fdatasync" => {
                let what = self.open.get(&number(arguments)?)?.target.clone();
                self.calls += 1;
                self.steps.push(Step::Syncing { call: self.calls, what });
                Some(self.calls)
            }
            "write" if arguments.starts_with("1,") => {
                let bytes = bytes(arguments)?;
                self.steps.push(Step::Said(String::from_utf8_lossy(&bytes).into_owned()));
                None
            }
            _ => None,
        }
    }

    fn end(&mut self, call: &str, sync: Option<usize>) {
        let Some((name, rest)) = call.split_once('(') else { return };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return };
        let Some(result) = number(result).filter(|result| *result >= 0) else { return };
        let count = usize::try_from(result).unwrap();
        let descriptor = number(arguments);
        match name {
            "openat" | "open" | "creat" => self.opened(arguments, result),
            "close" => drop(descriptor.and_then(|descriptor| self.open.remove(&descriptor))),
            "dup" | "dup2" | "dup3" => self.duplicated(descriptor, result),
            "fcntl" if arguments.contains("F_DUPFD") => self.duplicated(descriptor, result),
            "fsync" | "fdatasync" => self.steps.extend(sync.map(|call| Step::Synced { call })),
            "lseek" => {
                if let Some(open) = self.open.get_mut(&descriptor.unwrap()) {
                    open.at = count;
                }
            }
            "write" | "pwrite64" => {
                let Some(open) = self.open.get_mut(&descriptor.unwrap()) else { return };
                let Target::File(file) = open.target else { panic!("{call}") };
                let mut bytes = bytes(arguments).unwrap();
                bytes.truncate(count);
                let at = match name {
                    "pwrite64" => last(arguments),
                    _ if open.append => self.lengths[file],
                    _ => open.at,
                };
                if name == "write" {
                    open.at = at + count;
                }
                self.lengths[file] = self.lengths[file].max(at + count);
                self.steps.push(Step::Wrote { file, at, bytes });
            }
            "ftruncate" => {
                let Some(Open { target: Target::File(file), .. }) = self.open.get(&descriptor.unwrap())
                else {
                    return;
                };
                let bytes = last(arguments);
                self.lengths[*file] = bytes;
                self.steps.push(Step::Length { file: *file, bytes });
            }
            "mkdir" | "mkdirat" => {
                let path = paths(arguments).remove(0);
                if path.starts_with(self.root) {
                    self.steps.push(Step::Created { path, file: 0, directory: true });
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let [from, to] = <[PathBuf; 2]>::try_from(paths(arguments)).unwrap();
                if let Some(file) = self.names.remove(&from) {
                    self.names.insert(to.clone(), file);
                    self.steps.push(Step::Renamed { from, to });
                }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let path = paths(arguments).remove(0);
                if path.starts_with(self.root) {
                    self.names.remove(&path);
                    self.steps.push(Step::Removed { path });
                }
            }
            "fcntl" | "sync_file_range" => {}
            _ => {
                let ours = descriptor.is_some_and(|descriptor| self.open.contains_key(&descriptor));
                assert!(!ours, "the model does not know {call}");
            }
        }
    }

    fn opened(&mut self, arguments: &str, descriptor: i64) {
        self.open.remove(&descriptor);
        let path = paths(arguments).remove(0);
        if !path.starts_with(self.root) {
            // A directory above is synced for the root's own name.
            if self.root.starts_with(&path) {
                let open = Open { target: Target::Directory(path), append: false, at: 0 };
                self.open.insert(descriptor, open);
            }
            return;
        }
        let created = arguments.contains("O_CREAT");
        let file = match self.names.get(&path) {
            Some(file) => *file,
            None if created => {
                let file = self.lengths.len();
                self.lengths.push(0);
                self.names.insert(path.clone(), file);
                self.steps.push(Step::Created { path, file, directory: false });
                file
            }
            None => {
                let open = Open { target: Target::Directory(path), append: false, at: 0 };
                self.open.insert(descriptor, open);
                return;
            }
        };
        if arguments.contains("O_TRUNC") {
            self.lengths[file] = 0;
            self.steps.push(Step::Length { file, bytes: 0 });
        }
        let append = arguments.contains("O_APPEND");
        self.open.insert(descriptor, Open { target: Target::File(file), append, at: 0 });
    }

    fn duplicated(&mut self, from: Option<i64>, to: i64) {
        if let Some(open) = from.and_then(|from| self.open.get(&from)).cloned() {
            self.open.insert(to, open);
        }
    }
}

/// Returns the number that a text begins with.
fn number(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Returns the last argument.
fn last(arguments: &str) -> usize {
    let text = arguments.trim_end().trim_end_matches(')').rsplit(", ").next().unwrap();
    text.parse().unwrap_or_else(|_| panic!("no number at the end of {text}"))
}

/// Returns the strings among the arguments, which are all hexadecimal.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    let texts = arguments.split('"').skip(1).step_by(2);
    let byte = |pair: &str| u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("no byte: {pair}"));
    texts.map(|text| text.split("\\x").skip(1).map(byte).collect()).collect()
}

fn bytes(arguments: &str) -> Option<Vec<u8>> {
    let strings = strings(arguments);
    // An empty write has an empty string.
    strings.into_iter().next()
}

fn paths(arguments: &str) -> Vec<PathBuf> {
    strings(arguments).into_iter().map(|bytes| String::from_utf8(bytes).unwrap().into()).collect()
}

/// What a power cut leaves of what was not synced.
pub(crate) enum Loss<'a> {
    /// Nothing.
    AllUnsynced,
    /// Some of it.
    Some(&'a Random),
}

#[derive(Debug, Clone)]
enum Change {
    Bytes { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes { at, bytes } => put(content, *at, bytes),
            Self::Length(length) => content.resize(*length, 0),
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Name {
    Made { path: PathBuf, file: Option<usize> },
    Moved { from: PathBuf, to: PathBuf },
    Gone { path: PathBuf },
}

impl Name {
    /// The directories that this changes.
    fn is_in(&self, directory: &Path) -> bool {
        let is = |path: &Path| path.parent() == Some(directory);
        match self {
            Self::Made { path, .. } | Self::Gone { path } => is(path),
            Self::Moved { from, to } => is(from) || is(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Option<usize>>) {
        match self {
            Self::Made { path, file } => drop(names.insert(path.clone(), *file)),
            Self::Moved { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Gone { path } => drop(names.remove(path)),
        }
    }
}

/// The disk at one moment.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    files: Vec<File>,
    /// `None` is a directory.
    names: BTreeMap<PathBuf, Option<usize>>,
    pending: Vec<Name>,
    /// How many changes each sync that is under way covers.
    syncing: HashMap<usize, (Target, usize)>,
}

impl Disk {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            files: Vec::new(),
            names: BTreeMap::new(),
            pending: Vec::new(),
            syncing: HashMap::new(),
        }
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Created { path, directory: true, .. } => {
                self.pending.push(Name::Made { path: path.clone(), file: None });
            }
            Step::Created { path, file, .. } => {
                self.files.resize_with((*file + 1).max(self.files.len()), File::default);
                self.pending.push(Name::Made { path: path.clone(), file: Some(*file) });
            }
            Step::Wrote { file, at, bytes } => {
                self.files[*file].pending.push(Change::Bytes { at: *at, bytes: bytes.clone() });
            }
            Step::Length { file, bytes } => self.files[*file].pending.push(Change::Length(*bytes)),
            Step::Renamed { from, to } => {
                self.pending.push(Name::Moved { from: from.clone(), to: to.clone() });
            }
            Step::Removed { path } => self.pending.push(Name::Gone { path: path.clone() }),
            Step::Syncing { call, what } => {
                let covers = match what {
                    Target::File(file) => self.files[*file].pending.len(),
                    Target::Directory(_) => self.pending.len(),
                };
                self.syncing.insert(*call, (what.clone(), covers));
            }
            Step::Synced { call } => match self.syncing.remove(call) {
                Some((Target::File(file), covers)) => self.sync(file, covers),
                Some((Target::Directory(directory), covers)) => self.sync_names(&directory, covers),
                None => {}
            },
            Step::Said(_) => {}
        }
    }

    fn sync(&mut self, file: usize, covers: usize) {
        let File { synced, pending } = &mut self.files[file];
        let covers = covers.min(pending.len());
        for change in pending.drain(..covers) {
            change.apply(synced);
        }
        // Of two syncs at once the first that ends has done part of the other's.
        for (target, count) in self.syncing.values_mut() {
            if matches!(target, Target::File(other) if *other == file) {
                *count = count.saturating_sub(covers);
            }
        }
    }

    fn sync_names(&mut self, directory: &Path, covers: usize) {
        let mut left = Vec::new();
        let mut gone = 0;
        for (number, name) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if number < covers && name.is_in(directory) {
                name.apply(&mut self.names);
                gone += 1;
            } else {
                left.push(name);
            }
        }
        self.pending = left;
        for (target, count) in self.syncing.values_mut() {
            if matches!(target, Target::Directory(_)) {
                *count = count.saturating_sub(gone);
            }
        }
    }

    /// Writes what a power cut leaves to `directory`, below which the root has its own name.
    pub(crate) fn write(&self, directory: &Path, loss: &Loss<'_>) {
        let mut names = self.names.clone();
        if let Loss::Some(random) = loss {
            let kept = usize::try_from(random.below(self.pending.len() as u64 + 1)).unwrap();
            self.pending[..kept].iter().for_each(|name| name.apply(&mut names));
        }
        let above = self.root.parent().unwrap();
        for (path, file) in &names {
            let target = directory.join(path.strip_prefix(above).unwrap());
            // A name whose directory is not there is not there either.
            if !target.parent().unwrap().exists() {
                continue;
            }
            match file {
                None => drop(std::fs::create_dir(&target)),
                Some(file) => write_sparse(&target, &self.files[*file].after(loss)),
            }
        }
    }
}

impl File {
    fn after(&self, loss: &Loss<'_>) -> Vec<u8> {
        let mut content = self.synced.clone();
        let Loss::Some(random) = loss else { return content };
        for change in &self.pending {
            match (random.below(3), change) {
                (0, _) => {}
                (1, _) | (_, Change::Length(_)) => change.apply(&mut content),
                (_, Change::Bytes { at, bytes }) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let until = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                        if random.below(2) == 0 {
                            put(&mut content, at + from, &bytes[from..until]);
                        }
                        from = until;
                    }
                }
            }
        }
        content
    }
}

/// A journal has 64 MB of zeros at its end, which take no time so.
fn write_sparse(path: &Path, content: &[u8]) {
    let zeros = [0; 4096];
    let blocks = content.chunks(zeros.len()).rposition(|block| *block != zeros[..block.len()]);
    let used = blocks.map_or(0, |last| content.len().min((last + 1) * zeros.len()));
    std::fs::write(path, &content[..used]).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_len(content.len() as u64).unwrap();
}
