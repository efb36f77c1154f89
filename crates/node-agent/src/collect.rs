//! Collection of images: when the file system that holds them fills up, images that nothing uses go, those first
//! that have been unused for the longest time.
//!
//! The figures and the order are the kubelet's (`imageGCHighThresholdPercent` and what belongs to it). An image
//! store may be shared by several nodes: the runtime refuses to remove an image that a container of any of them
//! uses, so a refusal is not a failure here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use runtime::Image;

use crate::agent::Agent;
use crate::config::ImageCollection;

/// How often the file system is looked at: it has no event to wait for.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// The least time that an image must have been known for.
const LEAST_AGE: Duration = Duration::from_secs(2 * 60);

/// What is known of an image's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    first_seen: Timestamp,
    /// `None`: never, since this agent started.
    last: Option<Timestamp>,
}

/// The size of a file system and what is left of it, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    capacity: u64,
    available: u64,
}

impl Space {
    fn of(path: &Path) -> Option<Self> {
        let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
        Some(Self { capacity: found.f_blocks * found.f_frsize, available: found.f_bavail * found.f_frsize })
    }

    /// Returns how many bytes must go, if any.
    fn excess(self, limits: ImageCollection) -> Option<u64> {
        if self.capacity == 0 || limits.high_threshold_percent >= 100 {
            return None;
        }
        let used = self.capacity.saturating_sub(self.available);
        let percent = u128::from(used) * 100 / u128::from(self.capacity);
        if percent < u128::from(limits.high_threshold_percent) {
            return None;
        }
        let kept = u128::from(self.capacity) * u128::from(100 - limits.low_threshold_percent.min(100)) / 100;
        let excess = kept.saturating_sub(u128::from(self.available));
        u64::try_from(excess).ok().filter(|excess| *excess > 0)
    }
}

/// Collects until the agent ends.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut uses = BTreeMap::new();
    loop {
        if let Err(error) = round(&agent, &mut uses).await {
            tracing::warn!(%error, "collecting images");
        }
        agent.clock.after(EVERY).await;
    }
}

async fn round(agent: &Agent, uses: &mut BTreeMap<String, Use>) -> runtime::Result<()> {
    let now = agent.clock.now();
    let images = agent.runtime.list_images().await?;
    let in_use: BTreeSet<String> = agent
        .pods
        .all()
        .iter()
        .flat_map(|snapshot| snapshot.view.containers.iter().map(|container| container.image_id.clone()))
        .collect();
    note_uses(uses, &images, &in_use, now);
    let limits = agent.config.image_collection;
    let directory = &agent.config.image_directory;
    let Some(excess) = Space::of(directory).and_then(|space| space.excess(limits)) else { return Ok(()) };
    let mut freed = 0;
    for image in candidates(&images, uses, &in_use, now) {
        if freed >= excess {
            break;
        }
        match agent.runtime.remove_image(&image.id).await {
            Ok(()) => {
                tracing::info!(image = image.id, names = ?image.tags, bytes = image.size, "collected an unused image");
                freed += image.size;
                uses.remove(&image.id);
            }
            Err(error) => tracing::debug!(image = image.id, %error, "an image is kept"),
        }
    }
    if freed < excess {
        tracing::warn!(
            directory = %directory.display(),
            wanted = excess,
            freed,
            "the file system of the images is nearly full, and no more images are unused"
        );
    }
    Ok(())
}

fn note_uses(uses: &mut BTreeMap<String, Use>, images: &[Image], in_use: &BTreeSet<String>, now: Timestamp) {
    uses.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images {
        let entry = uses.entry(image.id.clone()).or_insert(Use { first_seen: now, last: None });
        if in_use.contains(&image.id) {
            entry.last = Some(now);
        }
    }
}

/// Returns what may go, in order: the longest unused first, then the oldest.
fn candidates<'a>(
    images: &'a [Image],
    uses: &BTreeMap<String, Use>,
    in_use: &BTreeSet<String>,
    now: Timestamp,
) -> Vec<&'a Image> {
    let of = |image: &Image| uses.get(&image.id).map(|one| (one.last, one.first_seen));
    let mut found: Vec<&Image> = images
        .iter()
        .filter(|image| !image.pinned && !in_use.contains(&image.id))
        .filter(|image| {
            of(image).is_some_and(|(_, seen)| now.duration_since(seen).unsigned_abs() >= LEAST_AGE)
        })
        .collect();
    found.sort_by_key(|image| of(image));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ImageCollection = ImageCollection { high_threshold_percent: 85, low_threshold_percent: 80 };

    fn image(id: &str, pinned: bool) -> Image {
        Image { id: id.into(), tags: Vec::new(), digests: Vec::new(), size: 10, user: String::new(), pinned }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn nothing_goes_below_the_high_threshold_and_then_down_to_the_low_one() {
        let space = |available| Space { capacity: 1000, available };
        for (available, limits, excess) in [
            (1000, LIMITS, None),
            (151, LIMITS, None),
            (150, LIMITS, Some(50)),
            (0, LIMITS, Some(200)),
            (0, ImageCollection { high_threshold_percent: 100, low_threshold_percent: 80 }, None),
        ] {
            assert_eq!(space(available).excess(limits), excess, "{available} of 1000 are free");
        }
        assert_eq!(Space { capacity: 0, available: 0 }.excess(LIMITS), None, "no file system was found");
    }

    #[test]
    fn the_longest_unused_image_goes_first_and_one_in_use_never() {
        let images = [
            image("new", false),
            image("recent", false),
            image("old", false),
            image("used", false),
            image("ours", true),
        ];
        let mut uses = BTreeMap::new();
        let in_use = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        note_uses(&mut uses, &images[1..], &in_use(&["old", "recent", "used"]), at(0));
        note_uses(&mut uses, &images[1..], &in_use(&["recent", "used"]), at(100));
        note_uses(&mut uses, &images, &in_use(&["used"]), at(200));
        let names = |now| -> Vec<&str> {
            candidates(&images, &uses, &in_use(&["used"]), now)
                .iter()
                .map(|image| image.id.as_str())
                .collect()
        };
        assert_eq!(names(at(210)), ["old", "recent"], "an image that has just come is given time");
        assert_eq!(names(at(400)), ["new", "old", "recent"], "what was never used goes first");
    }

    #[test]
    fn an_image_that_is_gone_is_forgotten() {
        let mut uses = BTreeMap::new();
        note_uses(&mut uses, &[image("a", false)], &BTreeSet::new(), at(0));
        note_uses(&mut uses, &[], &BTreeSet::new(), at(1));
        assert!(uses.is_empty());
    }
}
