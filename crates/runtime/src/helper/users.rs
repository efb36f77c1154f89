//! Who a container's process is: from the image's user, the pod's wishes and the image's own files of users.

use crate::Security;

/// The numbers that a process runs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: u32,
    pub(super) group: u32,
    /// Further groups, the primary one among them, so that the list is never the node agent's own.
    pub(super) groups: Vec<u32>,
}

/// Works out who to run as. `image_user` is the image's (`name`, `number`, either with `:group`), `passwd` and
/// `group` are the texts of its files, empty if it has none.
pub(super) fn identify(
    image_user: &str,
    security: &Security,
    passwd: &str,
    group: &str,
) -> Result<Identity, String> {
    let (name, image_group) = match image_user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (image_user, None),
    };
    let wanted = match security.run_as_user {
        Some(number) => number.to_string(),
        None if name.is_empty() => "0".to_owned(),
        None => name.to_owned(),
    };
    let entry = find_user(passwd, &wanted);
    let user = match (&entry, wanted.parse::<u32>()) {
        (Some(entry), _) => entry.user,
        (None, Ok(number)) => number,
        (None, Err(_)) => {
            return Err(format!("unable to find user {wanted}: no matching entries in passwd file"));
        }
    };
    if security.run_as_non_root && user == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    let group_id = match (security.run_as_group, image_group) {
        (Some(number), _) => narrow(number)?,
        // The image's group goes with the image's user.
        (None, Some(wanted)) if security.run_as_user.is_none() && !wanted.is_empty() => {
            find_group(group, wanted)
                .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?
        }
        _ => entry.as_ref().map_or(0, |entry| entry.group),
    };
    let mut groups = vec![group_id];
    let members = entry.iter().flat_map(|entry| groups_of(group, &entry.name));
    let supplemental = security.supplemental_groups.iter().map(|number| narrow(*number));
    for number in members.map(Ok).chain(supplemental) {
        let number = number?;
        if !groups.contains(&number) {
            groups.push(number);
        }
    }
    Ok(Identity { user, group: group_id, groups })
}

struct Entry {
    name: String,
    user: u32,
    group: u32,
}

/// Finds a user by name first, then by number, as every runtime does.
fn find_user(passwd: &str, wanted: &str) -> Option<Entry> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let user = fields.nth(1)?.parse().ok()?;
            let group = fields.next()?.parse().ok()?;
            Some(Entry { name, user, group })
        })
    };
    let by_name = entries().find(|entry| entry.name == wanted);
    by_name.or_else(|| {
        let number: u32 = wanted.parse().ok()?;
        entries().find(|entry| entry.user == number)
    })
}

fn find_group(groups: &str, wanted: &str) -> Option<u32> {
    let by_name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok())?
    });
    by_name.or_else(|| wanted.parse().ok())
}

fn groups_of<'a>(groups: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    groups.lines().filter_map(move |line| {
        let mut fields = line.split(':').skip(2);
        let number = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|member| member.trim() == user).then_some(number)
    })
}

fn narrow(number: i64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("{number} is no user or group id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/:/bin/sh\nbad line\n1000:x:5:6::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:44:web,other\nmore:x:45:web\n";

    #[test]
    fn users_come_from_the_image_unless_the_pod_says_otherwise() {
        type Case<'a> = (&'a str, Security, Result<(u32, u32, &'a [u32]), &'a str>);
        let cases: [Case<'_>; 12] = [
            ("", Security::default(), Ok((0, 0, &[0]))),
            ("web", Security::default(), Ok((33, 34, &[34, 44, 45]))),
            ("33", Security::default(), Ok((33, 34, &[34, 44, 45]))),
            ("web:logs", Security::default(), Ok((33, 44, &[44, 45]))),
            ("7:8", Security::default(), Ok((7, 8, &[8]))),
            ("1000", Security::default(), Ok((5, 6, &[6]))),
            ("nobody", Security::default(), Err("unable to find user nobody")),
            ("web:none", Security::default(), Err("unable to find group none")),
            ("web:logs", Security { run_as_user: Some(99), ..Security::default() }, Ok((99, 0, &[0]))),
            (
                "",
                Security { run_as_user: Some(33), run_as_group: Some(5), ..Security::default() },
                Ok((33, 5, &[5, 44, 45])),
            ),
            (
                "",
                Security { supplemental_groups: vec![2000, 0], ..Security::default() },
                Ok((0, 0, &[0, 2000])),
            ),
            ("", Security { run_as_non_root: true, ..Security::default() }, Err("image will run as root")),
        ];
        for (image, security, expect) in cases {
            let got = identify(image, &security, PASSWD, GROUP);
            match expect {
                Ok((user, group, groups)) => {
                    assert_eq!(got, Ok(Identity { user, group, groups: groups.to_vec() }), "{image}");
                }
                Err(text) => {
                    assert!(got.as_ref().is_err_and(|error| error.contains(text)), "{image}: {got:?}");
                }
            }
        }
    }
}
