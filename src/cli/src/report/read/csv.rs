//! Tables of values separated by commas, with quoted fields (RFC 4180).

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Lines whose number of fields is another one than that of the columns: a file that was cut short.
    pub broken: Vec<usize>,
}

/// A line of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name and field.
    fields: Vec<(String, String)>,
    /// Where it stands in the file, from 1.
    pub line: usize,
}

impl Row {
    /// The field of a column; empty where there is none.
    pub fn get(&self, column: &str) -> &str {
        self.fields.iter().find(|(name, _)| name == column).map_or("", |(_, field)| field)
    }

    /// The field as a number that is finite.
    pub fn number<T: std::str::FromStr + Into<f64> + Copy>(&self, column: &str) -> Option<T> {
        self.get(column).parse::<T>().ok().filter(|&n| n.into().is_finite())
    }
}

impl Table {
    /// The first line has the columns' names.
    pub fn parse(text: &str) -> Table {
        let mut lines = records(text).into_iter();
        let columns = lines.next().map(|(_, fields)| fields).unwrap_or_default();
        let mut table = Table { columns, ..Table::default() };
        for (line, fields) in lines {
            if fields.len() == table.columns.len() {
                table.rows.push(Row { fields: table.columns.iter().cloned().zip(fields).collect(), line });
            } else {
                table.broken.push(line);
            }
        }
        table
    }

    /// Whether all these columns are there.
    pub fn has(&self, columns: &[&str]) -> bool {
        columns.iter().all(|column| self.columns.iter().any(|name| name == column))
    }

    /// What could not be used: lines with too few or too many fields, and the lines of `bad` values.
    pub fn note(&self, bad: &[usize]) -> String {
        let mut lines = [&self.broken[..], bad].concat();
        lines.sort_unstable();
        match lines[..] {
            [] => String::new(),
            [first] => format!("line {first} is damaged and was not used"),
            [first, .., last] => {
                format!("{} lines between {first} and {last} are damaged and were not used", lines.len())
            }
        }
    }
}

/// The number of its first line and the fields of each record.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let (mut all, mut fields, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut line, mut begun) = (false, 1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.push(chars.next().unwrap_or('"')),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                fields.push(std::mem::take(&mut field));
                let record = std::mem::take(&mut fields);
                if record.iter().any(|field| !field.is_empty()) {
                    all.push((begun, record));
                }
                (line, begun) = (line + 1, line + 1);
            }
            c => {
                line += usize::from(c == '\n');
                field.push(c);
            }
        }
    }
    if !field.is_empty() || !fields.is_empty() {
        fields.push(field);
        all.push((begun, fields));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_keep_commas_quotes_and_line_ends() {
        let table = Table::parse("a,b\n1,\"x, \"\"y\"\"\nz\"\n\n2,3\r\n4\n");
        let rows: Vec<_> = table.rows.iter().map(|row| (row.line, row.get("a"), row.get("b"))).collect();
        assert_eq!(rows, [(2, "1", "x, \"y\"\nz"), (5, "2", "3")]);
        assert_eq!(
            (table.broken.clone(), table.note(&[2])),
            (vec![6], "2 lines between 2 and 6 are damaged and were not used".into())
        );
        assert_eq!(table.rows[1].number::<u32>("b"), Some(3));
        assert_eq!(Table::parse("a\nNaN\ninf\n").rows.iter().filter_map(|row| row.number::<f64>("a")).count(), 0);
    }
}
