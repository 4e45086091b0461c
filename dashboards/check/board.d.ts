// What a dashboard may be: the types of @grafana/schema, with each panel's options and fields those of its own kind.
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as pie from '@grafana/schema/dist/esm/raw/composable/piechart/panelcfg/x/PieChartPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as states from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as series from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type {Dashboard, DataSourceRef, FieldConfig, FieldConfigSource, Panel, RowPanel, AnnotationQuery} from '@grafana/schema';

// JSON has the text of an enum, not its member.
type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? {[K in keyof T]: Plain<T[K]>} : T;

// A query of the Prometheus data source, whose types are in a package of its own.
interface Query {
  refId: string; datasource: DataSourceRef; expr: string; legendFormat: string; range: boolean; instant: boolean;
  editorMode: 'code' | 'builder'; format?: 'time_series' | 'table' | 'heatmap';
}
interface Note extends Omit<AnnotationQuery, 'target'> {
  expr: string; step: string; titleFormat: string; textFormat: string; tagKeys: string; useValueForTime: boolean;
}
type Fields<C> = Omit<FieldConfigSource, 'defaults'> & {defaults: Omit<FieldConfig, 'custom'> & {custom?: C}};
type Of<K extends string, O, C> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'id' | 'gridPos' | 'title' | 'description'>
  & Required<Pick<Panel, 'id' | 'gridPos' | 'title' | 'description'>>
  & {type: K; options: O; fieldConfig: Fields<C>; targets: Query[]};
type Known =
  | Of<'bargauge', bargauge.Options, Record<string, never>>
  | Of<'piechart', pie.Options, pie.FieldConfig>
  | Of<'stat', stat.Options, Record<string, never>>
  | Of<'state-timeline', states.Options, states.FieldConfig>
  | Of<'table', table.Options, Partial<table.FieldConfig>>
  | Of<'text', text.Options, Record<string, never>>
  | Of<'timeseries', series.Options, series.FieldConfig>;
// Row panels say their kind in their type; what is left of the panels is one of those above.
type Row = RowPanel & {type: 'row'};

export type Board = Plain<Omit<Dashboard, 'panels' | 'annotations'> & {panels: (Known | Row)[]; annotations: {list: Note[]}}>;
