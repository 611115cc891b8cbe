//! What the subcommands that list and remove things have in common.

use sandgate_web::client::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::output;

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the gateway has at `path`: as it is, or as a table with a row for each.
pub async fn list<T: DeserializeOwned + Serialize, const N: usize>(
    client: &Client,
    path: &str,
    args: &LsArgs,
    head: [&str; N],
    row: impl Fn(T) -> [String; N],
) -> anyhow::Result<()> {
    let things: Vec<T> = client.get(path).await?;
    if args.json {
        return output::json(&things);
    }
    let rows: Vec<_> = things.into_iter().map(row).collect();
    output::table(head, &rows);
    Ok(())
}

/// How what was removed is named.
#[derive(Debug, Clone, Copy)]
pub struct Gone<'a> {
    /// What identifies it: `id` or `name`.
    pub key: &'a str,
    /// Its identifier.
    pub value: &'a str,
    /// What has happened to it.
    pub what: &'a str,
}

impl Gone<'_> {
    /// Says so.
    pub fn print(self, json: bool) -> anyhow::Result<()> {
        let Self { key, value, what } = self;
        if json {
            return output::json(&json!({ key: value, what: true }));
        }
        println!("{value}: {what}");
        Ok(())
    }
}
