//! Split sets, whole and broken (row 23 of the list of bad inputs).

use lowtide_gguf::split::{self, SplitInfo, TensorTable};
use lowtide_gguf::write::HeaderWriter;
use lowtide_gguf::{Error, GgmlType, Gguf};

/// One shard with the tensor `name`.
fn shard(no: u16, count: u16, total: i32, name: &str) -> Vec<u8> {
    let mut writer = HeaderWriter::new();
    writer.u16("split.no", no).u16("split.count", count).i32("split.tensors.count", total);
    let layout = writer.tensor(name, &[8], GgmlType::F32).finish().unwrap();
    let mut file = layout.header;
    file.resize(layout.file_bytes as usize, 0);
    file
}

fn merge(files: &[Vec<u8>]) -> Result<Vec<(u32, String)>, Error> {
    let shards: Vec<Gguf<'_>> = files.iter().map(|file| Gguf::parse(file).unwrap()).collect();
    let table = TensorTable::merge(&shards)?;
    Ok(table.entries().iter().map(|e| (e.shard, e.tensor.name().to_owned())).collect())
}

fn split_error(result: Result<impl std::fmt::Debug, Error>, expected: &str) {
    let error = result.expect_err(expected);
    assert!(matches!(error, Error::Split { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn names_follow_from_any_shard() {
    let info = |no, count| SplitInfo { no, count, tensors: None };
    let names = split::shard_names("m-q4-00002-of-00003.gguf", info(1, 3)).unwrap();
    let expected =
        ["m-q4-00001-of-00003.gguf", "m-q4-00002-of-00003.gguf", "m-q4-00003-of-00003.gguf"];
    assert_eq!(names, expected);
    assert_eq!(split::shard_names("any name.gguf", info(0, 1)).unwrap(), ["any name.gguf"]);
    assert_eq!(split::parse_name("a-b-of-c-00001-of-00002.gguf"), Some(("a-b-of-c", 1, 2)));
    let bad = [
        "m.gguf",
        "m-00001-of-00003",
        "m-1-of-3.gguf",
        "m-00000-of-00003.gguf",
        "m-00004-of-00003.gguf",
        "m-+0001-of-00003.gguf",
        "-00001-of-00003.gguf",
        "m-00001-of-00003.GGUF",
    ];
    for name in bad {
        assert_eq!(split::parse_name(name), None, "{name}");
        split_error(split::shard_names(name, info(0, 3)), "-0000N-of-0000M.gguf");
    }
    split_error(split::shard_names("m-00001-of-00002.gguf", info(0, 3)), "says 2 shards");
    split_error(split::shard_names("m-00001-of-00003.gguf", info(1, 3)), "says shard 1");
    for name in ["../x-00001-of-00003.gguf", "/x-00001-of-00003.gguf", "..\\x-00001-of-00003.gguf"]
    {
        split_error(split::shard_names(name, info(0, 3)), "is a path");
        split_error(split::shard_names(name, info(0, 1)), "is a path");
    }
}

#[test]
fn a_whole_set_merges() {
    let files = [shard(0, 3, 3, "a"), shard(1, 3, 3, "b"), shard(2, 3, 3, "c")];
    let merged = merge(&files).unwrap();
    assert_eq!(merged, [(0, "a".into()), (1, "b".into()), (2, "c".into())]);
    let shards: Vec<Gguf<'_>> = files.iter().map(|file| Gguf::parse(file).unwrap()).collect();
    let info = SplitInfo::read(&shards[1]).unwrap();
    assert_eq!(info, Some(SplitInfo { no: 1, count: 3, tensors: Some(3) }));
    let table = TensorTable::merge(&shards).unwrap();
    assert_eq!(table.find("c").unwrap().shard, 2);
    assert!(matches!(table.require("d"), Err(Error::MissingTensor { count: 3, .. })));
}

#[test]
fn a_single_file_is_a_set_of_one() {
    let mut writer = HeaderWriter::new();
    let layout = writer.tensor("a", &[8], GgmlType::F32).finish().unwrap();
    let mut file = layout.header;
    file.resize(layout.file_bytes as usize, 0);
    assert_eq!(merge(&[file.clone()]).unwrap(), [(0, "a".into())]);
    split_error(merge(&[file.clone(), file]), "no key split.count");
    assert_eq!(merge(&[shard(0, 1, 1, "a")]).unwrap(), [(0, "a".into())]);
}

#[test]
fn broken_sets_are_refused() {
    let (a, b, c) = (shard(0, 3, 3, "a"), shard(1, 3, 3, "b"), shard(2, 3, 3, "c"));
    split_error(merge(&[a.clone(), b.clone()]), "says the set has 3 shards");
    split_error(merge(&[a.clone(), b.clone(), b.clone()]), "missing or repeated");
    split_error(merge(&[b.clone(), a.clone(), c.clone()]), "missing or repeated");
    split_error(merge(&[a.clone(), b.clone(), shard(2, 4, 3, "c")]), "shard 3 says the set has 4");
    split_error(merge(&[a.clone(), b.clone(), shard(2, 3, 4, "c")]), "another set");
    let total = |no, name| shard(no, 2, 5, name);
    split_error(merge(&[total(0, "a"), total(1, "b")]), "hold 2 tensors");
    let twice = merge(&[a.clone(), b, shard(2, 3, 3, "a")]);
    assert!(matches!(twice, Err(Error::DuplicateTensor { .. })), "{twice:?}");
    split_error(merge(&[shard(3, 3, 3, "a"), a.clone(), c]), "contradict");
    let mut lying = HeaderWriter::new();
    let file = lying.u32("split.count", 1 << 30).u32("split.no", 0).finish().unwrap().header;
    split_error(SplitInfo::read(&Gguf::parse(&file).unwrap()), "contradict");
    let mut wrong = HeaderWriter::new();
    let file = wrong.str("split.count", "3").finish().unwrap().header;
    let read = SplitInfo::read(&Gguf::parse(&file).unwrap());
    assert!(matches!(read, Err(Error::WrongType { .. })));
}
