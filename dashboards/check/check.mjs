// node check.mjs FOLDER FILE…: are these dashboards what @grafana/schema says a dashboard is? FOLDER is where the packages of
// package.json are installed. Says what is wrong, and where; exit 1.
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {basename, dirname, join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

const [folder, ...files] = process.argv.slice(2);
const installed = createRequire(resolve(folder, 'package.json'));
const ts = installed('typescript');
const {defaultDashboard} = installed('@grafana/schema');

// As text, because the type of an imported JSON file has forgotten which words stand in it.
const sources = new Map(files.map((file) => [
  resolve(folder, `${basename(file, '.json')}.board.ts`),
  `import type {Board} from './board';\nexport const board: Board = ${readFileSync(file, 'utf8')};\n`,
]));
const boards = [...sources.keys()];
sources.set(resolve(folder, 'board.d.ts'), readFileSync(join(dirname(fileURLToPath(import.meta.url)), 'board.d.ts'), 'utf8'));
const options = {
  strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
};
const host = ts.createCompilerHost(options);
const {fileExists, readFile, getSourceFile} = host;
host.fileExists = (file) => sources.has(file) || fileExists(file);
host.readFile = (file) => sources.get(file) ?? readFile(file);
host.getSourceFile = (file, version, ...rest) => sources.has(file)
  ? ts.createSourceFile(file, sources.get(file), version) : getSourceFile(file, version, ...rest);

const found = ts.getPreEmitDiagnostics(ts.createProgram(boards, options, host));
for (const one of found) {
  const place = one.file ? `${basename(one.file.fileName, '.board.ts')}.json:${one.file.getLineAndCharacterOfPosition(one.start).line}: ` : '';
  console.error(place + ts.flattenDiagnosticMessageText(one.messageText, '\n').split('\n').slice(0, 6).join('\n  '));
}
for (const file of files) {
  const version = JSON.parse(readFileSync(file, 'utf8')).schemaVersion;
  if (version !== defaultDashboard.schemaVersion) {
    console.error(`${basename(file)}: schemaVersion ${version}, and Grafana's is ${defaultDashboard.schemaVersion}`);
    process.exitCode = 1;
  }
}
if (found.length) process.exitCode = 1;
