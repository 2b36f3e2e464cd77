//! Who owns restored files when root restores: PostgreSQL refuses a directory of somebody else.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};

use super::at;

/// A user and a group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

impl Owner {
    /// The owner of what is there.
    pub fn of(metadata: &Metadata) -> Self {
        Self { user: metadata.uid(), group: metadata.gid() }
    }

    /// Gives an open file to the owner.
    pub fn take_file(self, file: &File, path: &Path) -> Result<()> {
        std::os::unix::fs::fchown(file, Some(self.user), Some(self.group))
            .with_context(|| at(path, "change the owner of"))
    }

    /// Gives what stands at a path, itself if it is a link, to the owner.
    pub fn take_path(self, path: &Path) -> Result<()> {
        std::os::unix::fs::lchown(path, Some(self.user), Some(self.group))
            .with_context(|| at(path, "change the owner of"))
    }
}

impl FromStr for Owner {
    type Err = String;

    /// Reads `USER`, `USER:GROUP`, or numbers in their place.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let row = users.lines().map(|row| row.split(':').collect::<Vec<_>>()).find(|row| row.first() == Some(&user));
        let number =
            |field: usize| row.as_ref().and_then(|row| row.get(field)).and_then(|text| text.parse::<u32>().ok());
        let unknown = || format!("no user '{user}' in /etc/passwd: give numbers, as in 999:999");
        let uid = user.parse().ok().or_else(|| number(2)).ok_or_else(unknown)?;
        let gid = match group {
            Some(group) => group_number(group).ok_or_else(|| format!("no group '{group}' in /etc/group"))?,
            None => number(3).ok_or_else(|| format!("give a group as well, as in {user}:{user}"))?,
        };
        Ok(Self { user: uid, group: gid })
    }
}

fn group_number(group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let row = groups.lines().map(|row| row.split(':').collect::<Vec<_>>()).find(|row| row.first() == Some(&group))?;
    row.get(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!("26:27".parse(), Ok(Owner { user: 26, group: 27 }));
        assert_eq!("root".parse(), Ok(Owner { user: 0, group: 0 }));
        for text in ["", ":", "nobody-of-this-name", "4711", "0:no-such-group"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
