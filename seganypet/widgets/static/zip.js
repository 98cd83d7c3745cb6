// A folder that was chosen, as a ZIP archive that compresses nothing: a server needs to know one kind of file only.

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});
function crc32(content) {
  let crc = 0xffffffff;
  for (const byte of content) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

// Numbers, each as [bytes, value], little-endian.
function record(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view.buffer;
}

// Files of one folder as a File named after it. ZIP without its 64-bit extension: up to 65,535 files and 4 GB.
async function zipped(files) {
  const [parts, directory] = [[], []];
  let at = 0;
  for (const [number, file] of files.entries()) {
    const name = new TextEncoder().encode(String(number).padStart(5, "0")); // names of files may name people
    const crc = crc32(new Uint8Array(await file.arrayBuffer()));
    // Version 2.0, no flags, stored, no date; checksum, sizes, length of the name, no extra field.
    const common = [[2, 20], [2, 0], [2, 0], [2, 0], [2, 33], [4, crc], [4, file.size], [4, file.size], [2, name.length], [2, 0]];
    parts.push(record([4, 0x04034b50], ...common), name, file);
    directory.push(record([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
    at += 30 + name.length + file.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = record([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, at], [2, 0]);
  const folder = files[0].webkitRelativePath.split("/")[0] || "folder";
  return new File([...parts, ...directory, end], `${folder}.zip`);
}
