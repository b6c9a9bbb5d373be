//! What operators do on the servers is noted for the action log; a gateway notes by itself what is done through it.

use std::env;

use protocol::OperatorAction;

use crate::{output, servers::Servers, simulated::host};

/// The longest name of a person or a host that is noted, in letters.
const NAME_MAX: usize = 64;

impl Servers {
    /// Notes what was done. Where that fails, it was done all the same: there is a warning, and no more.
    pub(super) async fn note(&self, action: &str, target: impl Into<String>, detail: impl Into<String>) {
        let noted = OperatorAction {
            at_ms: self.environment().clock.now_ms(),
            who: who(),
            via: "cli".to_owned(),
            action: action.to_owned(),
            target: target.into(),
            detail: detail.into(),
        };
        let note = async {
            let store = self.store().await.map_err(|fault| fault.to_string())?;
            store.journal().note_action(&noted).await.map_err(|error| error.to_string())
        };
        if let Err(why) = note.await {
            output::warning(&format!("{action} was done and is not in the action log: {why}"));
        }
    }
}

/// Who runs this command: `user@host`. Behind `sudo` it is who called it.
fn who() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"].into_iter().filter_map(|name| env::var(name).ok()).find(|name| !name.is_empty());
    let user = named.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{}@{}", short(&user), short(&host()))
}

fn short(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_a_user_and_a_host() {
        let who = who();
        let (user, host) = who.split_once('@').unwrap();
        assert!(!user.is_empty() && !host.is_empty(), "{who}");
        assert_eq!(short("a\x1b[2Jb"), "a[2Jb");
        assert_eq!(short(&"x".repeat(100)).len(), NAME_MAX);
    }
}
