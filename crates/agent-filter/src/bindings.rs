//! The session binds of one connection.
//!
//! The agent judges binds by rules of its own and may not know them at all, so every bind is passed on; what is kept here is for the
//! audit trail alone. A guest can send binds with bad signatures; they never displace good ones.

use crate::purpose::{Binding, SessionId};

/// The most sessions remembered: where OpenSSH's agent stops too.
const MAX_BINDINGS: usize = 16;

/// Sessions with what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Bindings(Vec<(SessionId, Binding)>);

impl Bindings {
    pub(crate) fn add(&mut self, session_id: SessionId, binding: Binding) {
        if let Some((_, known)) = self.0.iter_mut().find(|(id, _)| *id == session_id) {
            if worth(&binding) > worth(known) {
                *known = binding;
            }
        } else if self.0.len() < MAX_BINDINGS {
            self.0.push((session_id, binding));
        } else if let Some(least) = self.0.iter_mut().min_by_key(|(_, known)| worth(known))
            && worth(&binding) > worth(&least.1)
        {
            *least = (session_id, binding);
        }
    }

    pub(crate) fn of(&self, session_id: &SessionId) -> Option<&Binding> {
        self.0.iter().find(|(id, _)| id == session_id).map(|(_, binding)| binding)
    }
}

/// A good signature counts before the agent's word; of equals the first stays, as in OpenSSH's agent.
fn worth(binding: &Binding) -> (bool, bool) {
    (binding.verified, binding.accepted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;

    fn binding(key: &[u8], verified: bool, accepted: bool) -> Binding {
        Binding { host_key: Fingerprint::of(key), forwarding: false, verified, accepted }
    }

    #[test]
    fn a_bad_bind_displaces_no_good_one_and_a_good_one_any_bad_one() {
        let mut bindings = Bindings::default();
        let id = |n: u8| SessionId::new(&[n; 32]).unwrap();
        for n in 0..40 {
            bindings.add(id(n), binding(b"bad", false, false));
        }
        assert!(bindings.of(&id(15)).is_some() && bindings.of(&id(16)).is_none());
        bindings.add(id(100), binding(b"good", true, true));
        bindings.add(id(100), binding(b"other", true, true));
        bindings.add(id(100), binding(b"bad", false, true));
        for n in 101..150 {
            bindings.add(id(n), binding(b"bad", false, false));
        }
        assert_eq!(bindings.of(&id(100)), Some(&binding(b"good", true, true)));
        bindings.add(id(7), binding(b"good", true, false));
        assert_eq!(bindings.of(&id(7)).or(bindings.of(&id(8))).map(|it| it.verified), Some(true));
        assert!(bindings.0.len() <= MAX_BINDINGS);
    }
}
