//! What the system offers a server: systemd's sockets and messages, Landlock's walls.

use std::net::TcpListener;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The sockets that systemd has opened for us, if it has.
///
/// # Errors
/// One of them is no TCP socket that listens.
pub fn activated() -> std::io::Result<Vec<TcpListener>> {
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        listeners.extend(handed.take_tcp_listener(index)?);
    }
    Ok(listeners)
}

/// Tells systemd, where it waits for that, that the server answers.
pub fn notify_ready() {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// Tells systemd that the server is on its way down.
pub fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// How far the kernel keeps the server to its models' folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walls {
    /// Wholly.
    Full,
    /// As far as this kernel can.
    Partial,
    /// Not at all: it has no Landlock.
    None,
}

/// From now on the calling thread and those it starts read below these folders and the kernel's own
/// only, write and execute nothing, and connect to nobody; as far as this kernel can enforce it, which
/// is what is returned.
///
/// # Errors
/// The kernel refuses what it says it can do.
pub fn confine(readable: &[PathBuf]) -> Result<Walls, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::ConnectTcp)?
        .create()?;
    let kernel = ["/proc", "/sys"].map(PathBuf::from);
    for path in readable.iter().chain(&kernel) {
        // What cannot be opened need not be allowed.
        if let Ok(folder) = PathFd::new(path) {
            let read = AccessFs::ReadFile | AccessFs::ReadDir;
            rules = rules.add_rule(PathBeneath::new(folder, read))?;
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Walls::Full,
        RulesetStatus::PartiallyEnforced => Walls::Partial,
        RulesetStatus::NotEnforced => Walls::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_walls_only_the_models_can_be_read() {
        // On a thread of its own: the walls stay.
        let dir = std::env::temp_dir().join(format!("lowtide-walls-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("models")).unwrap();
        std::fs::write(dir.join("models/a"), "a").unwrap();
        std::fs::write(dir.join("secret"), "s").unwrap();
        let inner = dir.clone();
        let thread = std::thread::spawn(move || {
            let walls = confine(&[inner.join("models")]).unwrap();
            assert!(std::fs::read(inner.join("models/a")).is_ok());
            assert!(std::fs::read("/proc/self/status").is_ok());
            if walls != Walls::None {
                assert!(std::fs::read(inner.join("secret")).is_err());
                assert!(std::fs::write(inner.join("models/b"), "b").is_err());
            }
        });
        thread.join().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
