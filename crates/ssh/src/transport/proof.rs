//! Telling a client all host keys, and proving them (OpenSSH PROTOCOL §2.5), so that keys can be changed without warnings.

use super::Transport;
use super::messages::{MSG_GLOBAL_REQUEST, MSG_REQUEST_SUCCESS};
use crate::algorithm::HostKeyAlgorithm;
use crate::codec::{Reader, Writer};
use crate::hostkey::HostKey;

impl Transport {
    /// The host keys that this connection could have been made with.
    fn offered_keys(&self) -> impl Iterator<Item = (&HostKey, HostKeyAlgorithm)> {
        let offer = self.sender.offer();
        let rsa = self.rsa_algorithm;
        self.config.host_keys.iter().filter_map(move |key| {
            let algorithms = key.algorithms();
            let offered = algorithms.iter().copied().find(|a| offer.host_key.contains(a))?;
            Some((key.as_ref(), if algorithms.contains(&rsa) { rsa } else { offered }))
        })
    }

    /// The whole payload of the `hostkeys-00@openssh.com` global request, to be sent after authentication.
    #[must_use]
    pub fn host_keys_announcement(&self) -> Vec<u8> {
        let mut message = Writer::message(MSG_GLOBAL_REQUEST);
        message.string("hostkeys-00@openssh.com").bool(false);
        for (key, _) in self.offered_keys() {
            message.string(key.public_blob());
        }
        message.into_vec()
    }

    /// The whole payload of the reply to `hostkeys-prove-00@openssh.com`; `request` is what follows want-reply: the blobs of
    /// the keys to prove. `None` means that the request must be answered with failure: it is malformed, empty, names a key
    /// that is not ours or names one twice (so the work is bounded by the number of our keys).
    #[must_use]
    pub fn host_keys_proof(&self, request: &[u8]) -> Option<Vec<u8>> {
        let session_id = self.session_id()?;
        let mut reply = Writer::message(MSG_REQUEST_SUCCESS);
        let mut proved: Vec<&[u8]> = Vec::new();
        let mut request = Reader::new(request);
        while !request.is_empty() {
            let blob = request.string().ok()?;
            let (key, algorithm) = self.offered_keys().find(|(key, _)| key.public_blob() == blob)?;
            if proved.contains(&blob) {
                return None;
            }
            proved.push(blob);
            let mut message = Writer::new();
            message.string("hostkeys-prove-00@openssh.com").string(session_id).string(blob);
            reply.string(key.sign(algorithm, message.as_slice())?);
        }
        (!proved.is_empty()).then(|| reply.into_vec())
    }
}
