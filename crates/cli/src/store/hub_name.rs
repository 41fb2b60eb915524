//! `hf:org/repo[:quant]`: the name, and which file of a repository it means.

use crate::failure::Failure;

/// Preferred where no quantisation is named: the usual balance first, then what is near it.
const PREFERRED: &[&str] = &["Q4_K_M", "Q4_0", "Q5_K_M", "Q4_K_S", "Q4_1", "Q8_0", "F16"];

/// A parsed `hf:` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// The organisation or user.
    pub org: String,
    /// The repository.
    pub repo: String,
    /// A quantisation (`Q4_K_M`) or a file's path in the repository.
    pub pick: Option<String>,
}

impl HubName {
    /// Parses what follows `hf:`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (repo, pick) = match text.split_once(':') {
            Some((repo, pick)) => (repo, Some(pick)),
            None => (text, None),
        };
        let parts: Vec<&str> = repo.split('/').collect();
        let usable = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match parts.as_slice() {
            [org, repo] if usable(org) && usable(repo) && pick.is_none_or(is_pick) => Ok(Self {
                org: (*org).to_owned(),
                repo: (*repo).to_owned(),
                pick: pick.map(str::to_owned),
            }),
            _ => Err(Failure::input(format!("\"hf:{text}\" does not name a model"))
                .why("a name is hf:ORGANISATION/REPOSITORY, with :QUANTISATION or :FILE if wanted")
                .mend("lowtide pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0")),
        }
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hf:{}/{}", self.org, self.repo)?;
        self.pick.iter().try_for_each(|pick| write!(f, ":{pick}"))
    }
}

fn is_pick(pick: &str) -> bool {
    !pick.is_empty() && is_safe_path(pick)
}

/// Whether a repository's path can be used below the models folder: no way out of it.
pub fn is_safe_path(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').all(|part| {
            !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':', '\0'])
        })
        && !path.chars().any(char::is_control)
}

/// The files (all parts of a split set, in order) that `pick` means among a repository's paths.
pub fn choose<'a>(paths: &[&'a str], name: &HubName) -> Result<Vec<&'a str>, Failure> {
    let mut models: Vec<&str> = paths
        .iter()
        .copied()
        .filter(|path| path.ends_with(".gguf") && is_safe_path(path))
        // Encoders of images and drafts of other kinds are no models to talk to.
        .filter(|path| !path.to_ascii_lowercase().contains("mmproj"))
        .collect();
    models.sort_unstable();
    let firsts: Vec<&str> =
        models.iter().copied().filter(|path| shard(path).is_none_or(|(_, n, _)| n == 1)).collect();
    let chosen = match &name.pick {
        Some(pick) if pick.ends_with(".gguf") => firsts.iter().copied().find(|path| path == pick),
        Some(pick) => one_of_quant(&firsts, pick, name)?,
        None => match firsts.as_slice() {
            [only] => Some(*only),
            _ => PREFERRED.iter().find_map(|quant| quant_matches(&firsts, quant).first().copied()),
        },
    };
    let Some(chosen) = chosen else {
        return Err(no_such_file(name, &firsts));
    };
    let Some((stem, _, count)) = shard(chosen) else { return Ok(vec![chosen]) };
    let set: Vec<&str> =
        models.iter().copied().filter(|p| shard(p).is_some_and(|s| s.0 == stem)).collect();
    if set.len() != count {
        return Err(Failure::running(format!("{name} is incomplete on the hub"))
            .why(format!("{} of {count} parts of {chosen} are there", set.len())));
    }
    Ok(set)
}

fn one_of_quant<'a>(
    firsts: &[&'a str],
    quant: &str,
    name: &HubName,
) -> Result<Option<&'a str>, Failure> {
    match quant_matches(firsts, quant).as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        many => Err(Failure::input(format!("{name} means {} files", many.len()))
            .why(many.join(", "))
            .mend(format!("lowtide pull hf:{}/{}:{}", name.org, name.repo, many[0]))),
    }
}

fn no_such_file(name: &HubName, firsts: &[&str]) -> Failure {
    let failure = Failure::input(format!("{name} names no model file of the repository"));
    match firsts.first() {
        None => failure.why("the repository holds no GGUF file"),
        Some(first) => failure
            .why(format!("it has {}", firsts.join(", ")))
            .mend(format!("lowtide pull hf:{}/{}:{first}", name.org, name.repo)),
    }
}

/// The paths that carry this quantisation as a word of their own.
pub fn quant_matches<'a>(paths: &[&'a str], quant: &str) -> Vec<&'a str> {
    let wanted = quant.to_ascii_uppercase();
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
    let carries = |path: &&str| {
        let path = path.to_ascii_uppercase();
        path.match_indices(&wanted).any(|(at, _)| {
            is_edge(path[..at].chars().next_back())
                && is_edge(path[at + wanted.len()..].chars().next())
        })
    };
    paths.iter().copied().filter(carries).collect()
}

/// `x-00002-of-00003.gguf` -> ("x", 2, 3).
pub fn shard(path: &str) -> Option<(&str, usize, usize)> {
    let (stem, index, count) = lowtide_gguf::split::parse_name(path)?;
    Some((stem, index as usize, count as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HubName {
        HubName::parse(text).unwrap()
    }

    #[test]
    fn names_are_parsed_and_nothing_leads_out_of_the_folder() {
        let parsed = name("Qwen/Qwen3-0.6B-GGUF:Q8_0");
        assert_eq!((parsed.org.as_str(), parsed.repo.as_str()), ("Qwen", "Qwen3-0.6B-GGUF"));
        assert_eq!(parsed.pick.as_deref(), Some("Q8_0"));
        assert_eq!(parsed.to_string(), "hf:Qwen/Qwen3-0.6B-GGUF:Q8_0");
        for bad in [
            "",
            "a",
            "a/b/c",
            "../b",
            "a/..",
            "a/b:",
            "a/b:../x.gguf",
            "a/b:/x",
            "a b/c",
            "a/b:x:y",
            "a/b?x=1",
            "a/%2e%2e",
        ] {
            assert!(HubName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_quantisation_is_a_word_of_the_name() {
        let paths = ["m-IQ4_K_M.gguf", "m-Q4_K_M.gguf", "m.Q4_K.gguf", "m-Q8_0.gguf", "README.md"];
        assert_eq!(choose(&paths, &name("a/b:q4_k_m")).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(choose(&paths, &name("a/b:Q4_K")).unwrap(), ["m.Q4_K.gguf"]);
        assert_eq!(choose(&paths, &name("a/b")).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(choose(&paths, &name("a/b:m-Q8_0.gguf")).unwrap(), ["m-Q8_0.gguf"]);
        assert!(choose(&paths, &name("a/b:Q5_0")).is_err());
        assert!(choose(&["README.md"], &name("a/b")).is_err());
        let twice = ["a-Q8_0.gguf", "b-Q8_0.gguf"];
        assert!(choose(&twice, &name("a/b:Q8_0")).unwrap_err().to_string().contains("2 files"));
    }

    #[test]
    fn split_sets_come_whole_and_in_order() {
        let paths = [
            "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf",
            "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
            "mmproj-Q4_K_M.gguf",
        ];
        assert_eq!(
            choose(&paths, &name("a/b:Q4_K_M")).unwrap(),
            ["Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf"]
        );
        assert!(choose(&paths[1..], &name("a/b")).is_err());
        assert!(choose(&["../m-Q4_K_M.gguf"], &name("a/b")).is_err());
        assert_eq!(shard("m-00001-of-00000.gguf"), None);
        assert_eq!(shard("m-1-of-2.gguf"), None);
    }
}
