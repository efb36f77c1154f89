//! The arithmetic of a rolling update and of scaling in the middle of one.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What the arithmetic needs of a replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    /// What its spec asks for.
    pub(crate) replicas: i32,
    /// How many of its pods are available.
    pub(crate) available: i32,
    /// What the deployment could be at most when it was last scaled.
    pub(crate) max_before: Option<i32>,
}

/// The bounds of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// What the deployment asks for.
    pub(crate) replicas: i32,
    /// How many more there may be.
    pub(crate) surge: i32,
    /// How many of them may be missing.
    pub(crate) unavailable: i32,
}

/// Resolves a number or a share of `total`.
pub(crate) fn resolve(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            let scaled = percent * i64::from(total);
            let share = if round_up { (scaled + 99).div_euclid(100) } else { scaled.div_euclid(100) };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

pub(crate) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

impl Bounds {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        if !is_rolling(deployment) {
            return Self { replicas, surge: 0, unavailable: 0 };
        }
        let rolling = spec
            .and_then(|spec| spec.strategy.as_ref())
            .and_then(|strategy| strategy.rolling_update.clone())
            .unwrap_or_default();
        let quarter = IntOrString::String("25%".into());
        let surge = resolve(rolling.max_surge.as_ref().unwrap_or(&quarter), replicas, true);
        let mut unavailable = resolve(rolling.max_unavailable.as_ref().unwrap_or(&quarter), replicas, false);
        if surge == 0 && unavailable == 0 {
            // Something has to give, or the update could never start.
            unavailable = 1;
        }
        Self { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    pub(crate) fn max(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }
}

/// Returns how many replicas the new set may have now, given the sum over all sets.
pub(crate) fn new_set_replicas(bounds: Bounds, rolling: bool, new: i32, sum: i32) -> i32 {
    if !rolling || new > bounds.replicas {
        return bounds.replicas;
    }
    if sum >= bounds.max() {
        return new;
    }
    new + (bounds.max() - sum).min(bounds.replicas - new)
}

/// Scales down the old sets (oldest first) as far as the bounds allow; returns whether anything changed.
pub(crate) fn shrink_old(bounds: Bounds, new: Option<&Set>, old: &mut [Set]) -> bool {
    let before = old.to_vec();
    let old_sum: i32 = old.iter().map(|set| set.replicas).sum();
    if old_sum == 0 {
        return false;
    }
    let (new_replicas, new_available) = new.map_or((0, 0), |set| (set.replicas, set.available));
    let least = bounds.replicas - bounds.unavailable;
    let budget = old_sum + new_replicas - least - (new_replicas - new_available);
    if budget <= 0 {
        return false;
    }
    // Pods that do not work anyway go first.
    let mut gone = 0;
    for set in old.iter_mut() {
        let broken = (set.replicas - set.available).max(0).min(budget - gone);
        set.replicas -= broken;
        gone += broken;
    }
    let available = new_available + before.iter().map(|set| set.available).sum::<i32>();
    let mut spare = (available - least).max(0);
    for set in old.iter_mut() {
        let cut = set.replicas.min(spare);
        set.replicas -= cut;
        spare -= cut;
    }
    old != before
}

/// Spreads a change of size over all active sets in proportion to their sizes. The sets come in no
/// particular order; ties go to the later, that is younger, ones.
pub(crate) fn scale_proportionally(bounds: Bounds, sets: &mut [Set], status_replicas: i32) {
    let sum: i32 = sets.iter().map(|set| set.replicas).sum();
    let allowed = if bounds.replicas > 0 { bounds.max() } else { 0 };
    let change = allowed - sum;
    if change == 0 {
        return;
    }
    // The largest first; of those the youngest when growing and the oldest when shrinking.
    let mut order: Vec<usize> = (0..sets.len()).collect();
    if change > 0 {
        order.reverse();
    }
    order.sort_by_key(|at| std::cmp::Reverse(sets[*at].replicas));
    let mut done = 0;
    for at in &order {
        let set = &mut sets[*at];
        if set.replicas == 0 || change == done {
            continue;
        }
        let rest = change - done;
        let share = share(bounds, set, status_replicas);
        let share = if change > 0 { share.min(rest).max(0) } else { share.max(rest).min(0) };
        set.replicas += share;
        done += share;
    }
    if let Some(first) = order.first() {
        let set = &mut sets[*first];
        set.replicas = (set.replicas + change - done).max(0);
    }
}

fn share(bounds: Bounds, set: &Set, status_replicas: i32) -> i32 {
    if bounds.replicas == 0 {
        return -set.replicas;
    }
    let before = set.max_before.filter(|max| *max > 0).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    let scaled = f64::from(set.replicas) * f64::from(bounds.max()) / f64::from(before);
    let rounded = scaled.round().clamp(f64::from(i32::MIN), f64::from(i32::MAX));
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the range above")]
    let rounded = rounded as i32;
    rounded - set.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i32, available: i32) -> Set {
        Set { replicas, available, max_before: None }
    }

    #[test]
    fn shares_round_up_for_surge_and_down_for_unavailable() {
        for (surge, unavailable, replicas, expect) in [
            ("25%", "25%", 10, (3, 2)),
            ("25%", "25%", 1, (1, 0)),
            ("0%", "0%", 4, (0, 1)),
            ("100%", "50%", 3, (3, 1)),
        ] {
            let deployment: Deployment = serde_json::from_value(serde_json::json!({"spec": {
                "replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
            .unwrap();
            let bounds = Bounds::of(&deployment);
            assert_eq!((bounds.surge, bounds.unavailable), expect, "{surge} {unavailable} of {replicas}");
        }
    }

    #[test]
    fn the_new_set_grows_into_the_surge() {
        let bounds = Bounds { replicas: 10, surge: 3, unavailable: 2 };
        for (rolling, new, sum, expect) in [
            (true, 0, 10, 3),
            (true, 3, 13, 3),
            (true, 3, 11, 5),
            (true, 9, 10, 10),
            (true, 12, 12, 10),
            (false, 0, 0, 10),
        ] {
            assert_eq!(new_set_replicas(bounds, rolling, new, sum), expect, "{new} of {sum}");
        }
    }

    #[test]
    fn old_sets_shrink_only_as_far_as_enough_stay_available() {
        let bounds = Bounds { replicas: 10, surge: 3, unavailable: 2 };
        for (new, old, expect) in [
            (set(3, 0), vec![set(10, 10)], vec![8]),
            (set(5, 3), vec![set(8, 8)], vec![5]),
            (set(10, 10), vec![set(3, 3)], vec![0]),
            (set(0, 0), vec![set(10, 5)], vec![8]),
            (set(3, 0), vec![set(8, 8)], vec![8]),
            (set(3, 3), vec![set(5, 0), set(5, 5)], vec![0, 5]),
        ] {
            let mut sets = old.clone();
            let changed = shrink_old(bounds, Some(&new), &mut sets);
            let sizes: Vec<_> = sets.iter().map(|set| set.replicas).collect();
            assert_eq!(sizes, expect, "{new:?} {old:?}");
            assert_eq!(changed, sets != old);
        }
    }

    #[test]
    fn scaling_during_an_update_keeps_the_proportions() {
        let with = |replicas, max| Set { replicas, available: replicas, max_before: Some(max) };
        for (replicas, surge, sets, expect) in [
            (15, 3, vec![with(8, 13), with(5, 13)], vec![11, 7]),
            (5, 3, vec![with(8, 13), with(5, 13)], vec![5, 3]),
            (0, 0, vec![with(8, 13), with(5, 13)], vec![0, 0]),
            (10, 3, vec![with(8, 13), with(5, 13)], vec![8, 5]),
        ] {
            let bounds = Bounds { replicas, surge, unavailable: 0 };
            let mut scaled = sets.clone();
            scale_proportionally(bounds, &mut scaled, 13);
            let sizes: Vec<_> = scaled.iter().map(|set| set.replicas).collect();
            assert_eq!(sizes, expect, "{replicas}+{surge}");
        }
    }
}
