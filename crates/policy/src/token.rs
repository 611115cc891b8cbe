//! Tokens: a secret that is used as an SSH user name, as in `ssh sg_…@host`.
//!
//! Form: `sg_`, 28 random characters, 4 check characters: 35 in all, short enough for `ControlPath`. The alphabet is
//! base 32 in lower case without the letters i, l, o and u. 28 characters are 140 random bits; 115 remain unknown to
//! somebody who has seen the 8 characters that lists and logs show.
//!
//! The check characters tell a typing error from an unknown token in our own log. They are public knowledge, so they
//! never change the answer to the client nor the time it takes: every presented name is hashed and looked up.
//!
//! Tokens are kept as plain SHA-256. A slow, salted hash protects secrets that can be guessed; nobody guesses 140
//! random bits, and a plain hash can be looked up by index, in the same time whether it is there or not.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use aws_lc_rs::{digest, rand};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::principal::{Denied, DenyReason};
use crate::{NoRandomness, Scopes};

/// What every token begins with.
pub const PREFIX: &str = "sg_";
/// Base 32 in Crockford's choice of letters, lower case.
pub(crate) const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Random characters: 5 bits each, 140 bits in all.
const RANDOM: usize = 28;
/// Check characters: a typing error passes once in 2^20.
const CHECK: usize = 4;
/// Length of a token in characters.
pub const TOKEN_LEN: usize = PREFIX.len() + RANDOM + CHECK;
/// How much of a token may be shown: `sg_` and five characters.
pub const SHOWN: usize = 8;
/// Longest label of a token, in bytes.
pub const MAX_LABEL: usize = 64;
/// Most source networks of one token; each login looks at all of them.
pub const MAX_SOURCES: usize = 32;

/// A whole token, as shown once to the person who made it. `Debug` and `Display` show the first 8 characters only;
/// [`Token::reveal`] gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Makes a new token from the system's random generator.
    ///
    /// # Errors
    /// The system's random generator failed.
    pub fn generate() -> Result<Token, NoRandomness> {
        let mut random = [0u8; RANDOM];
        rand::fill(&mut random).map_err(|_| NoRandomness)?;
        // 256 is a multiple of 32, so the low five bits of a random byte are even.
        let body: [u8; RANDOM] = random.map(|byte| ALPHABET[usize::from(byte & 31)]);
        let check = check_characters(&body);
        let text = PREFIX.bytes().chain(body).chain(check).map(char::from).collect();
        Ok(Token(text))
    }

    /// The secret text. For the one answer that shows it; never for a log.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first 8 characters, which lists and logs may show.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.0[..SHOWN]
    }

    /// What is stored in place of the token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        hash_presented(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}…)", self.shown())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.shown())
    }
}

/// What a presented user name looks like, before it is known to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedToken {
    /// The form and the check characters are right.
    Whole(Token),
    /// It begins like a token but its length, letters or check characters are wrong.
    Mistyped,
    /// It does not begin with `sg_`; perhaps it is a sandbox name.
    NotAToken,
}

impl TypedToken {
    /// Looks at a presented user name. Looks at no more than the length of a token.
    #[must_use]
    pub fn parse(presented: &[u8]) -> TypedToken {
        let Some(rest) = presented.strip_prefix(PREFIX.as_bytes()) else {
            return TypedToken::NotAToken;
        };
        if rest.len() != RANDOM + CHECK || !rest.iter().all(|byte| ALPHABET.contains(byte)) {
            return TypedToken::Mistyped;
        }
        let (body, check) = rest.split_at(RANDOM);
        if check_characters(body) != check {
            return TypedToken::Mistyped;
        }
        match String::from_utf8(presented.to_vec()) {
            Ok(text) => TypedToken::Whole(Token(text)),
            Err(_) => TypedToken::Mistyped,
        }
    }
}

/// SHA-256 over a token's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Lower-case hexadecimal, as it is stored.
    #[must_use]
    pub fn to_hex(self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// Longest part of a presented name that is hashed. Longer than any token, so nothing longer can match: the cut part
/// is marked by hashing the length too.
const MAX_HASHED: usize = 256;

/// Hashes whatever was presented, be it a token or not, so that every attempt can take the same way through the store.
#[must_use]
pub fn hash_presented(presented: &[u8]) -> TokenHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&presented[..presented.len().min(MAX_HASHED)]);
    if presented.len() > MAX_HASHED {
        context.update(&presented.len().to_be_bytes());
    }
    let mut hash = [0u8; 32];
    hash.copy_from_slice(context.finish().as_ref());
    TokenHash(hash)
}

fn check_characters(body: &[u8]) -> [u8; CHECK] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"sandgate token check 1:");
    context.update(body);
    let sum = context.finish();
    let mut check = [0u8; CHECK];
    for (character, byte) in check.iter_mut().zip(sum.as_ref()) {
        *character = ALPHABET[usize::from(byte & 31)];
    }
    check
}

/// What the store knows about a token that decides whether it opens the door.
#[derive(Debug, Clone)]
pub struct TokenState<'a> {
    /// End of its life.
    pub expires_at: OffsetDateTime,
    /// When it was revoked, if it was.
    pub revoked_at: Option<OffsetDateTime>,
    /// Where it may be used from; empty means anywhere.
    pub sources: &'a SourceNetworks,
}

/// Whether a token that exists may be used now, from there.
///
/// # Errors
/// Revoked, expired, or used from elsewhere. The holder had a valid token once and so is told what is wrong.
pub fn check_token(token: &TokenState<'_>, source: IpAddr, now: OffsetDateTime) -> Result<(), Denied> {
    if let Some(at) = token.revoked_at {
        return Err(Denied::told(format!("This token was revoked at {}.", clock(at)), DenyReason::Revoked));
    }
    if now >= token.expires_at {
        return Err(Denied::told(
            format!("This token expired at {}.", clock(token.expires_at)),
            DenyReason::Expired,
        ));
    }
    if !token.sources.allow(source) {
        return Err(Denied::told(
            "This token may not be used from your network address.".to_owned(),
            DenyReason::SourceNotAllowed,
        ));
    }
    Ok(())
}

/// A time for people: `2026-11-22 14:02 UTC`.
#[must_use]
pub fn clock(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02} UTC",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute()
    )
}

/// A token's label: a short text for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The label as text; may be empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Label, LabelError> {
        if text.len() > MAX_LABEL {
            return Err(LabelError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(LabelError::Control);
        }
        // Somebody will paste a token into the label one day; it would be stored in clear.
        if text.contains(PREFIX)
            && text.split(|c: char| c.is_whitespace()).any(|word| word.len() >= TOKEN_LEN)
        {
            return Err(LabelError::LooksLikeToken);
        }
        Ok(Label(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Label, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0
    }
}

/// A label that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Over [`MAX_LABEL`].
    #[error("the label is longer than {MAX_LABEL} bytes")]
    TooLong,
    /// A control character, which could play tricks on a terminal that lists labels.
    #[error("the label holds a control character")]
    Control,
    /// It seems to hold a token.
    #[error("the label looks like a token; labels are stored in clear")]
    LooksLikeToken,
}

/// The networks a token may be used from. Empty means anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct SourceNetworks(Vec<IpNet>);

impl SourceNetworks {
    /// Reads networks (`192.0.2.0/24`) and single addresses.
    ///
    /// # Errors
    /// An entry that is neither, or more than [`MAX_SOURCES`].
    pub fn parse<I, S>(entries: I) -> Result<SourceNetworks, SourcesError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut networks = Vec::new();
        for entry in entries {
            let entry = entry.as_ref().trim();
            let network = match entry.parse::<IpNet>() {
                Ok(network) => network.trunc(),
                Err(_) => match entry.parse::<IpAddr>() {
                    Ok(address) => IpNet::from(address),
                    Err(_) => return Err(SourcesError::NotANetwork(entry.chars().take(64).collect())),
                },
            };
            if networks.len() == MAX_SOURCES {
                return Err(SourcesError::TooMany);
            }
            networks.push(network);
        }
        Ok(SourceNetworks(networks))
    }

    /// Whether a client at `source` may come in. An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) counts as IPv4.
    #[must_use]
    pub fn allow(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.0.is_empty() || self.0.iter().any(|network| network.contains(&source))
    }

    /// The networks as text.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(IpNet::to_string)
    }
}

impl TryFrom<Vec<String>> for SourceNetworks {
    type Error = SourcesError;

    fn try_from(entries: Vec<String>) -> Result<SourceNetworks, SourcesError> {
        SourceNetworks::parse(entries)
    }
}

impl From<SourceNetworks> for Vec<String> {
    fn from(networks: SourceNetworks) -> Vec<String> {
        networks.iter().collect()
    }
}

/// A list of source networks that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// Neither a network nor an address.
    #[error("\"{0}\" is neither a network such as 192.0.2.0/24 nor an address")]
    NotANetwork(String),
    /// Over [`MAX_SOURCES`].
    #[error("a token can name at most {MAX_SOURCES} source networks")]
    TooMany,
}

/// How long tokens may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlPolicy {
    /// Given to a token whose maker names no time.
    pub default: Duration,
    /// The longest that may be asked for.
    pub max: Duration,
}

impl Default for TtlPolicy {
    /// One hour, at most 30 days.
    fn default() -> TtlPolicy {
        TtlPolicy { default: Duration::hours(1), max: Duration::days(30) }
    }
}

impl TtlPolicy {
    /// When a token made at `now` expires.
    ///
    /// # Errors
    /// No time at all, or more than the maximum.
    pub fn expiry(&self, asked: Option<Duration>, now: OffsetDateTime) -> Result<OffsetDateTime, TtlError> {
        let ttl = asked.unwrap_or(self.default.min(self.max));
        if ttl < Duration::SECOND {
            return Err(TtlError::TooShort);
        }
        if ttl > self.max {
            return Err(TtlError::TooLong { max_hours: self.max.whole_hours() });
        }
        now.checked_add(ttl).ok_or(TtlError::TooLong { max_hours: self.max.whole_hours() })
    }
}

/// A lifetime that cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TtlError {
    /// Less than a second.
    #[error("a token must live at least one second")]
    TooShort,
    /// Over the configured maximum.
    #[error("a token may live at most {max_hours} hours here ([tokens] max_ttl)")]
    TooLong {
        /// The maximum in whole hours.
        max_hours: i64,
    },
}

/// The scopes that a token gets when its maker names none.
#[must_use]
pub fn default_scopes() -> Scopes {
    Scopes::all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).expect("a time")
    }

    fn here() -> IpAddr {
        "192.0.2.7".parse().expect("an address")
    }

    #[test]
    fn a_new_token_has_the_promised_form() {
        let token = Token::generate().expect("random");
        let text = token.reveal();
        assert_eq!(text.len(), 35);
        assert!(text.starts_with("sg_"));
        assert!(text[3..].bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_eq!(TypedToken::parse(text.as_bytes()), TypedToken::Whole(token.clone()));
        assert_ne!(token, Token::generate().expect("random"));
    }

    #[test]
    fn the_secret_does_not_show() {
        let token = Token::generate().expect("random");
        for shown in
            [format!("{token}"), format!("{token:?}"), format!("{:?}", TypedToken::Whole(token.clone()))]
        {
            assert!(!shown.contains(&token.reveal()[..SHOWN + 1]), "{shown}");
        }
        assert_eq!(token.shown().len(), 8);
        assert!(!format!("{:?}", token.hash()).contains(&token.hash().to_hex()[..8]));
    }

    #[test]
    fn one_wrong_character_is_seen_as_a_typing_error() {
        let token = Token::generate().expect("random");
        let mut missed = 0;
        for place in PREFIX.len()..TOKEN_LEN {
            let mut text = token.reveal().as_bytes().to_vec();
            let old = text[place];
            text[place] = if old == b'0' { b'1' } else { b'0' };
            missed += i32::from(TypedToken::parse(&text) != TypedToken::Mistyped);
        }
        assert_eq!(missed, 0);
    }

    #[test]
    fn what_is_no_token() {
        assert_eq!(TypedToken::parse(b""), TypedToken::NotAToken);
        assert_eq!(TypedToken::parse(b"demo"), TypedToken::NotAToken);
        assert_eq!(TypedToken::parse(b"sg_"), TypedToken::Mistyped);
        assert_eq!(TypedToken::parse(&[b"sg_".as_slice(), &[b'0'; 100_000]].concat()), TypedToken::Mistyped);
        let upper = Token::generate().expect("random").reveal().to_uppercase();
        assert_eq!(TypedToken::parse(upper.as_bytes()), TypedToken::NotAToken);
    }

    #[test]
    fn the_hash_is_plain_sha256() {
        assert_eq!(
            hash_presented(b"abc").to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_long_name_cannot_share_a_hash_with_its_beginning() {
        let long = [b'a'; MAX_HASHED + 1];
        assert_ne!(hash_presented(&long), hash_presented(&long[..MAX_HASHED]));
    }

    #[test]
    fn the_holder_of_a_dead_token_is_told_why() {
        let sources = SourceNetworks::parse(["192.0.2.0/24"]).expect("networks");
        let good = TokenState { expires_at: at(60), revoked_at: None, sources: &sources };
        assert!(check_token(&good, here(), at(59)).is_ok());
        let expired = check_token(&good, here(), at(60)).expect_err("expired");
        assert_eq!(expired.log, DenyReason::Expired);
        assert!(expired.public.expect("told").contains("expired at 2027-01-15 08:01 UTC"));
        let elsewhere =
            check_token(&good, "198.51.100.1".parse().expect("an address"), at(0)).expect_err("elsewhere");
        assert_eq!(elsewhere.log, DenyReason::SourceNotAllowed);
        let revoked = TokenState { revoked_at: Some(at(1)), ..good };
        assert_eq!(check_token(&revoked, here(), at(2)).expect_err("revoked").log, DenyReason::Revoked);
    }

    #[test]
    fn sources() {
        let sources = SourceNetworks::parse(["192.0.2.9/24", "2001:db8::1"]).expect("networks");
        assert_eq!(sources.iter().collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::1/128"]);
        assert!(sources.allow("::ffff:192.0.2.1".parse().expect("an address")));
        assert!(!sources.allow("2001:db8::2".parse().expect("an address")));
        assert!(SourceNetworks::default().allow(here()));
        assert!(matches!(SourceNetworks::parse(["example.org"]), Err(SourcesError::NotANetwork(_))));
        assert_eq!(SourceNetworks::parse(vec!["::1"; MAX_SOURCES + 1]), Err(SourcesError::TooMany));
    }

    #[test]
    fn lifetimes() {
        let policy = TtlPolicy::default();
        assert_eq!(policy.expiry(None, at(0)), Ok(at(3600)));
        assert_eq!(policy.expiry(Some(Duration::days(30)), at(0)), Ok(at(30 * 86400)));
        assert!(matches!(
            policy.expiry(Some(Duration::days(31)), at(0)),
            Err(TtlError::TooLong { max_hours: 720 })
        ));
        assert_eq!(policy.expiry(Some(Duration::ZERO), at(0)), Err(TtlError::TooShort));
        let short = TtlPolicy { max: Duration::minutes(5), ..policy };
        assert_eq!(short.expiry(None, at(0)), Ok(at(300)));
    }

    #[test]
    fn labels() {
        assert!("CI of the week".parse::<Label>().is_ok());
        assert!("".parse::<Label>().is_ok());
        assert_eq!("a\x1b[31m".parse::<Label>(), Err(LabelError::Control));
        assert_eq!("x".repeat(MAX_LABEL + 1).parse::<Label>(), Err(LabelError::TooLong));
        let token = Token::generate().expect("random");
        assert_eq!(format!("my {}", token.reveal()).parse::<Label>(), Err(LabelError::LooksLikeToken));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = TypedToken::parse(&bytes);
            let _ = hash_presented(&bytes);
            let mut prefixed = b"sg_".to_vec();
            prefixed.extend(&bytes);
            let parsed = TypedToken::parse(&prefixed);
            prop_assert!(!matches!(parsed, TypedToken::NotAToken));
        }
    }
}
