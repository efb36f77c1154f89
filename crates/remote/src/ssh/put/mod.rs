//! Files put in place by a shell script on the far side (`put.sh`), which one exchange tells what to do.
//!
//! Small files go in one exchange, all or none of them; each big one goes in an exchange of its own, compressed when
//! that helps, into a part file named after its checksum, where a broken transfer is taken up again.

mod source;
mod talk;

use std::fmt::Write as _;
use std::sync::Arc;

use self::source::{Measure, Piece, measure, pump, whole};
use self::talk::Talk;
use super::Ssh;
use super::channel::{Connection, Input};
use super::run::{Failure, Persistence};
use crate::error::{Error, Result};
use crate::file::{File, Uploaded};

/// Files above this size have part files; the unit in which those are taken up again. `put.sh` knows it, too.
const BIG: u64 = 1 << 20;
/// How often a part file may turn out to be wrong.
const MISMATCHES: u32 = 2;

/// A file and what is known of it.
#[derive(Debug)]
struct Item<'a> {
    file: &'a File,
    measure: Measure,
    /// Where it is made.
    part: String,
}

/// What the far side has of a file.
#[derive(Debug, Clone, Default)]
struct There {
    /// Size, mode, user, group, user number and group number, as stat tells them.
    stat: Option<Vec<String>>,
    sum: Option<String>,
    part: u64,
}

/// What must be done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Attributes,
    Contents,
}

pub(super) async fn one(ssh: &Ssh, file: &File) -> Result<Uploaded> {
    let done = many(ssh, std::slice::from_ref(file)).await?;
    Ok(done.into_iter().next().unwrap_or_default())
}

pub(super) async fn many(ssh: &Ssh, files: &[File]) -> Result<Vec<Uploaded>> {
    let mut items = Vec::new();
    for file in files {
        file.check()?;
        let measure = measure(&file.source).await?;
        let part = part_of(&file.path, &measure);
        items.push(Item { file, measure, part });
    }
    for (at, item) in items.iter().enumerate() {
        if items[..at].iter().any(|other| other.file.path == item.file.path) {
            return Err(Error::Invalid(format!("{} is to be uploaded twice at once", item.file.path)));
        }
    }
    let mut done = vec![None; items.len()];
    // Who writes is one shell: root's or the user's.
    for root in [true, false] {
        loop {
            let open: Vec<usize> =
                (0..items.len()).filter(|at| done[*at].is_none() && items[*at].file.root == root).collect();
            if open.is_empty() {
                break;
            }
            let mut effort = Effort::default();
            let doing = match open.as_slice() {
                [at] => format!("uploading {}", items[*at].file.path),
                _ => format!("uploading {} files", open.len()),
            };
            let chosen: Vec<&Item<'_>> = open.iter().map(|at| &items[*at]).collect();
            let mut persistence = Persistence::new(ssh, &doing, true, ssh.target.timing.upload);
            let outcome = loop {
                let done =
                    persistence.attempt(|connection| exchange(ssh, connection, root, &chosen, &mut effort));
                if let Some(outcome) = done.await? {
                    break outcome;
                }
            };
            for (at, uploaded) in open.into_iter().zip(outcome) {
                done[at] = uploaded;
            }
        }
    }
    Ok(done.into_iter().flatten().collect())
}

/// Returns where a file is made, beside its place. A big one is found again by its checksum. The checksum of a small
/// one may give its contents away, if they are a short secret, and file names are in argument lists.
fn part_of(path: &str, measure: &Measure) -> String {
    let at = path.rfind('/').unwrap_or(0);
    let (directory, name) = (&path[..at], &path[at + 1..]);
    let kind = if measure.size > BIG { &measure.sum[..16] } else { "new" };
    format!("{directory}/.{name}.{kind}.part")
}

/// What one upload has cost so far, over all its connections.
#[derive(Debug, Default)]
struct Effort {
    sent: u64,
    resumed: u64,
    mismatches: u32,
}

/// One exchange: brings all small files and at most one big one in place. `None`: still to be done.
async fn exchange(
    ssh: &Ssh,
    connection: Arc<Connection>,
    root: bool,
    items: &[&Item<'_>],
    effort: &mut Effort,
) -> Result<Vec<Option<Uploaded>>, Failure> {
    let name = items.first().map_or("", |item| item.file.path.as_str());
    let mut talk = Talk::start(ssh, &connection, root, name).await?;
    let mut manifest = format!("{}\n", items.len());
    for item in items {
        let Item { file, measure: Measure { sum, size }, part } = item;
        let owner = file.owner_line();
        let _ = write!(
            manifest,
            "{}\n{sum}\n{size}\n{:o}\n{owner}\n{part}\n{}\n",
            file.path, file.mode, file.noted
        );
    }
    talk.say(manifest).await;
    let (there, gzip) = state(&mut talk, items.len()).await?;
    let needs: Vec<Need> = items.iter().zip(&there).map(|(item, there)| need(item, there)).collect();
    let mut done: Vec<Option<Uploaded>> = vec![None; items.len()];
    let mut big = None;
    let mut orders = Vec::new();
    for (at, item) in items.iter().enumerate() {
        match needs[at] {
            Need::Nothing => done[at] = Some(Uploaded::default()),
            Need::Attributes => {
                orders.extend_from_slice(format!("set {at}\n").as_bytes());
                done[at] = Some(Uploaded { changed: true, ..Uploaded::default() });
            }
            Need::Contents if item.measure.size > BIG => big = big.or(Some(at)),
            Need::Contents => {
                let bytes = whole(&item.file.source, item.measure.size).await?;
                if bytes.len() as u64 != item.measure.size {
                    return Err(changed(item));
                }
                orders.extend_from_slice(format!("put {at}\n").as_bytes());
                orders.extend_from_slice(&bytes);
                effort.sent += bytes.len() as u64;
                done[at] = Some(Uploaded { changed: true, sent: bytes.len() as u64, ..Uploaded::default() });
            }
        }
    }
    if let Some(at) = big.filter(|_| orders.is_empty()) {
        done[at] = stream(&mut talk, items[at], at, there[at].part, gzip, effort).await?;
        return Ok(done);
    }
    orders.extend_from_slice(b"end\n");
    // Both at once: the far side may have something to say before it has heard all.
    let mouth = talk.mouth();
    let speaking = async move {
        if let Some(mouth) = mouth {
            mouth.send(Input::Data(orders.into())).await;
        }
    };
    let line = both(speaking, talk.line()).await?;
    match line.as_str() {
        "done" => {
            for (at, item) in items.iter().enumerate() {
                if done[at].is_some() {
                    item.file.report(item.measure.size, item.measure.size);
                }
            }
            Ok(done)
        }
        "mismatch" => Err(again(items[0], effort)),
        _ => Err(talk.confused(&line)),
    }
}

/// Sends a big file.
async fn stream(
    talk: &mut Talk<'_>,
    item: &Item<'_>,
    at: usize,
    part: u64,
    gzip: bool,
    effort: &mut Effort,
) -> Result<Option<Uploaded>, Failure> {
    let Measure { size, .. } = item.measure;
    let blocks = part.min(size) / BIG;
    let offset = blocks * BIG;
    effort.resumed = effort.resumed.max(offset);
    let mut pump = pump(&item.file.source, size, offset, gzip).await?;
    let compressed = pump.compressed;
    let method = if compressed { "gzip" } else { "plain" };
    talk.say(format!("stream {at} {blocks} {method}\n")).await;
    let mouth = talk.mouth();
    let mut broken = None;
    let mut sent = 0;
    let line = {
        let speaking = async {
            let Some(mouth) = mouth else { return };
            while let Some(piece) = pump.pieces.recv().await {
                match piece {
                    Ok(Piece { bytes, done }) => {
                        let count = bytes.len() as u64;
                        if !mouth.send(Input::Data(bytes)).await {
                            return;
                        }
                        sent += count;
                        // The whole is told when the far side has checked it.
                        item.file.report(done.min(size - 1), size);
                    }
                    Err(error) => {
                        broken = Some(error);
                        return;
                    }
                }
            }
        };
        both(speaking, talk.line()).await
    };
    effort.sent += sent;
    if let Some(source) = broken {
        return Err(Failure::Final(Error::Local { what: format!("reading {:?}", item.file.source), source }));
    }
    let line = line?;
    match line.as_str() {
        "done" => {
            item.file.report(size, size);
            Ok(Some(Uploaded { changed: true, sent: effort.sent, resumed: effort.resumed, compressed }))
        }
        "mismatch" => {
            effort.resumed = 0;
            Err(again(item, effort))
        }
        "short" => Err(changed(item)),
        _ => Err(talk.confused(&line)),
    }
}

/// Speaks and listens; what is heard counts.
async fn both<T>(speaking: impl Future<Output = ()>, listening: impl Future<Output = T>) -> T {
    tokio::pin!(listening);
    tokio::select! {
        heard = &mut listening => heard,
        () = speaking => listening.await,
    }
}

/// Reads what the far side has.
async fn state(talk: &mut Talk<'_>, count: usize) -> Result<(Vec<There>, bool), Failure> {
    let mut there = vec![There::default(); count];
    let (mut present, mut summed) = (Vec::new(), Vec::new());
    let (mut stats, mut sums) = (0, 0);
    let mut gzip = false;
    loop {
        let line = talk.line().await?;
        let words: Vec<&str> = line.split(' ').collect();
        let index = |word: &str| word.parse::<usize>().ok().filter(|at| *at < count);
        match words.as_slice() {
            ["end"] if stats == present.len() && sums == summed.len() => return Ok((there, gzip)),
            ["gzip"] => gzip = true,
            ["have", at] => present.push(index(at).ok_or_else(|| talk.confused(&line))?),
            ["sum", at] => summed.push(index(at).ok_or_else(|| talk.confused(&line))?),
            ["noted", at, sum] => {
                let at = index(at).ok_or_else(|| talk.confused(&line))?;
                there[at].sum = Some((*sum).into());
            }
            ["part", at, size] => {
                let at = index(at).ok_or_else(|| talk.confused(&line))?;
                there[at].part = size.parse().map_err(|_| talk.confused(&line))?;
            }
            [sum, "", ..] if sum.len() == 64 && sums < summed.len() => {
                there[summed[sums]].sum = Some((*sum).into());
                sums += 1;
            }
            [_, _, _, _, _, _] if stats < present.len() => {
                there[present[stats]].stat = Some(words.iter().map(|word| (*word).to_owned()).collect());
                stats += 1;
            }
            _ => return Err(talk.confused(&line)),
        }
    }
}

fn need(item: &Item<'_>, there: &There) -> Need {
    let Some([_, mode, user, group, user_number, group_number]) = there.stat.as_deref() else {
        return Need::Contents;
    };
    if there.sum.as_deref() != Some(item.measure.sum.as_str()) {
        return Need::Contents;
    }
    let owned = item.file.owner.as_ref().is_none_or(|(wanted_user, wanted_group)| {
        (wanted_user == user || wanted_user == user_number)
            && (wanted_group == group || wanted_group == group_number)
    });
    if owned && *mode == format!("{:o}", item.file.mode) { Need::Nothing } else { Need::Attributes }
}

/// The part file was not what it should be: once more from the start, unless that was tried.
fn again(item: &Item<'_>, effort: &mut Effort) -> Failure {
    effort.mismatches += 1;
    if effort.mismatches >= MISMATCHES {
        return changed(item);
    }
    Failure::Broken { started: false, why: "what had arrived was not what was sent".into() }
}

fn changed(item: &Item<'_>) -> Failure {
    Failure::Final(Error::Invalid(format!(
        "{:?} changed while it was uploaded to {}; the old file is still in place there; upload it again",
        item.file.source, item.file.path
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_big_files_is_the_checksum_in_a_name() {
        let measure = |size| Measure { sum: "0123456789abcdef".repeat(4), size };
        assert_eq!(part_of("/etc/k/token", &measure(BIG)), "/etc/k/.token.new.part");
        assert_eq!(part_of("/etc/k/token", &measure(BIG + 1)), "/etc/k/.token.0123456789abcdef.part");
        assert_eq!(part_of("/x", &measure(0)), "/.x.new.part");
    }
}
