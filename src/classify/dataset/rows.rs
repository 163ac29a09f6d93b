//! Owns the reading of rows: JSON, JSON Lines, CSV, TSV and parquet files, as Hugging Face exports them.

use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use crate::classify::Error;
use crate::text;

/// The rows of a file, in order, each with the place where it stands.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Value)>, Error> {
    let wrong = |why: String| Error::Task { place: path.display().to_string(), why };
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "jsonl" | "json" => json(path),
        "csv" => separated(path, b','),
        "tsv" => separated(path, b'\t'),
        "parquet" => {
            // Opened here: the library would call the system's own error an external one.
            let file = text::open(path).map_err(|e| wrong(format!("cannot read it: {e}")))?;
            columns(path, file).map_err(|e| wrong(e.to_string()))
        }
        _ => Err(wrong("expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet".to_owned())),
    }
}

fn json(path: &Path) -> Result<Vec<(String, Value)>, Error> {
    let at = |place: String, why: String| Error::Task { place, why };
    let name = path.display().to_string();
    let text = text_of(path)?;
    // A list, or a row on each line: the ending says neither.
    if text.trim_start().starts_with('[') {
        let rows: Vec<Value> = serde_json::from_str(&text).map_err(|e| at(name.clone(), e.to_string()))?;
        return Ok(rows.into_iter().enumerate().map(|(i, row)| (format!("{name}: row {}", i + 1), row)).collect());
    }
    // Numbered before blank ones go: an error names the line of the file.
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(i, line): (usize, &str)| {
        let place = format!("{name}:{}", i + 1);
        let row = serde_json::from_str(line).map_err(|e| at(place.clone(), e.to_string()))?;
        Ok((place, row))
    };
    lines.map(row).collect()
}

fn text_of(path: &Path) -> Result<String, Error> {
    let cannot_read = |e| Error::Task { place: path.display().to_string(), why: format!("cannot read it: {e}") };
    text::read(path, text::CORPUS_BYTES).map_err(cannot_read)
}

/// A table whose first line names its columns; every value is a text.
fn separated(path: &Path, delimiter: u8) -> Result<Vec<(String, Value)>, Error> {
    let wrong = |e: csv::Error| Error::Task { place: path.display().to_string(), why: e.to_string() };
    let text = text_of(path)?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let names = reader.headers().map_err(wrong)?.clone();
    let row = |record: csv::Result<csv::StringRecord>| {
        let record = record.map_err(wrong)?;
        // A value may hold line ends: the reader knows where its record began.
        let line = record.position().map_or(0, csv::Position::line);
        let fields = names.iter().zip(&record).map(|(name, value)| (name.to_owned(), Value::from(value)));
        Ok((format!("{}:{line}", path.display()), Value::Object(fields.collect::<Map<_, _>>())))
    };
    reader.records().map(row).collect()
}

fn columns(path: &Path, file: std::fs::File) -> parquet::errors::Result<Vec<(String, Value)>> {
    let reader = SerializedFileReader::new(file)?;
    let rows = reader.get_row_iter(None)?.enumerate();
    rows.map(|(i, row)| Ok((format!("{}: row {}", path.display(), i + 1), row?.to_json_value()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(name: &str, text: &str) -> Result<Vec<Value>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).map(|rows| rows.into_iter().map(|(_, row)| row).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_layout_gives_the_same_rows() {
        let expected = vec![json!({"text": "a, \"b\"", "label": "1"}), json!({"text": "c", "label": "0"})];
        let lines = "{\"text\": \"a, \\\"b\\\"\", \"label\": \"1\"}\n\n{\"text\": \"c\", \"label\": \"0\"}\n";
        assert_eq!(values("x.jsonl", lines).unwrap(), expected);
        assert_eq!(values("x.json", &serde_json::to_string(&expected).unwrap()).unwrap(), expected);
        assert_eq!(values("x.csv", "text,label\n\"a, \"\"b\"\"\",1\nc,0\n").unwrap(), expected);
        assert_eq!(values("x.tsv", "text\tlabel\n\"a, \"\"b\"\"\"\t1\nc\t0\n").unwrap(), expected);
    }

    #[test]
    fn files_of_other_systems_give_the_same_rows() {
        let expected = vec![json!({"text": "a\nb", "label": "1"}), json!({"text": "c", "label": "0"})];
        for (name, text) in [
            ("x.jsonl", "{\"text\": \"a\\nb\", \"label\": \"1\"}\n{\"text\": \"c\", \"label\": \"0\"}\n"),
            ("x.json", "[\n{\"text\": \"a\\nb\", \"label\": \"1\"},\n{\"text\": \"c\", \"label\": \"0\"}]\n"),
            ("x.csv", "text,label\n\"a\nb\",1\nc,0\n"),
            ("x.tsv", "text\tlabel\n\"a\nb\"\t1\nc\t0\n"),
        ] {
            let dos = text.replace('\n', "\r\n");
            for form in [text.to_owned(), dos.clone(), format!("\u{feff}{text}"), format!("\u{feff}{dos}")] {
                assert_eq!(values(name, &form).unwrap(), expected, "{form:?}");
            }
        }
    }

    #[test]
    fn mistakes_name_the_place() {
        assert!(values("x.jsonl", "{}\n{").unwrap_err().contains("x.jsonl:2: "));
        assert!(values("x.csv", "a,b\n1\n").unwrap_err().contains("x.csv: "));
        assert!(values("x.parquet", "PAR1").unwrap_err().contains("x.parquet: "));
        for name in ["x.parquet", "x.csv", "x.jsonl"] {
            let error = read(Path::new("/nowhere").join(name).as_path()).unwrap_err().to_string();
            assert!(error.contains("No such file") && !error.contains("xternal"), "{error}");
        }
        assert!(
            values("x.txt", "")
                .unwrap_err()
                .ends_with("expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet")
        );
    }
}
